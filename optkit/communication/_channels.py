"""Channels: how the compressed messages of all workers become one mean."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from optkit.compressors import Compressor, Sums, nbytes
from optkit.compressors._leafwise import Entries
from optkit.core.non_finite import all_finite, choose
from optkit.core.precision import scalar_dtype, widen
from optkit.core.types import AxisName
from optkit.core.workers.gathering import gather_together

Layout = Literal["gather", "sum", "two_phase"]
Count = Literal["workers", "senders"]


class Sent(NamedTuple):
    """What came of one round of messages.

    Attributes:
        own: What this worker's message says, at least in float32; zero if it was left out.
        mean: The mean of what the messages say, equal on all workers; zero if all were left out.
        total: Their sum, each times its worker's weight, equal on all workers.
        weights: The weights of all workers, equal on all of them; zero for those that were left out.
        kept: Whether this worker's message was not left out.
        exact: Whether messages were not compressed.
    """

    own: Any
    mean: Any
    total: Any
    weights: jax.Array
    kept: jax.Array
    exact: jax.Array


class Channel(NamedTuple):
    """A way to average trees over workers, as two functions.

    Attributes:
        init: Returns the state from the parameters.
        send: Returns what came of the messages, a `Sent`, and the next state, from a tree in float32 at least, the
            worker's weight (a number or a boolean) and the state.
    """

    init: Callable[[Any], Any]
    send: Callable[[Any, Any, Any], tuple[Sent, Any]]


def uncompressed(axis_name: AxisName | None) -> Channel:
    """Sends trees as they are."""

    def send(tree, weight, state):
        kept = all_finite(tree) & (weight > 0)
        own, weight = choose(kept, tree, optax.tree.zeros_like(tree)), jnp.where(kept, weight, 0)
        total = jax.tree.map(lambda x: weight.astype(x.dtype) * x, own)
        total = total if axis_name is None else jax.lax.psum(total, axis_name)
        weights = gather_together(weight, axis_name)
        return Sent(own, _divide(total, jnp.sum(weights)), total, weights, kept, jnp.array(True)), state

    def init(params):
        del params

    return Channel(init, send)


def direct(compressor: Compressor, axis_name: AxisName | None, layout: Layout | None, count: Count) -> Channel:
    """Sends compressed messages to all workers, or adds them on the way."""

    def send(tree, weight, state):
        message, kept, state = _compress(compressor, tree, state, weight)
        workers, sums = number_of_workers(axis_name), compressor.sums
        if sums is not None and _layout(compressor, sums, tree, workers, layout, count, weight) == "sum":
            total = _add_on_the_way(sums, message, tree, weight, kept, workers, axis_name)
            weights = gather_together(jnp.where(kept, weight, 0), axis_name)
            mean = _divide(total, jnp.sum(weights))
        else:
            rows, weights = gather_together((message, jnp.where(kept, weight, 0)), axis_name)
            total = compressor.combine(weights, rows, tree)
            held = compressor.combine(weights, _ones(rows), tree) if count == "senders" else jnp.sum(weights)
            mean = _divide(total, held)
            # Its own row, because XLA for CPUs would pack the message anew for each entry that it unpacks.
            worker = 0 if axis_name is None else jax.lax.axis_index(axis_name)
            message = jax.tree.map(lambda x: x[worker], rows)
        own = _unpack(compressor, message, tree, kept)
        return Sent(own, mean, total, weights, kept, jnp.array(False)), state

    return Channel(compressor.init, send)


class ServerState(NamedTuple):
    """State of a channel that compresses the mean, too.

    Attributes:
        messages: State of the channel, or compressor, of the messages.
        server: State of the compressor of the mean.
        error: What the mean's messages have left out so far; None if it is forgotten. With slices, each worker has that
            of its own.
    """

    messages: Any
    server: Any
    error: Any

    # What the workers are still to be told, see `optkit.resize_workers`.
    owed = ("error",)


def answered(channel: Channel, server: Compressor) -> Channel:
    """Compresses the mean of another channel, with error feedback."""

    def init(params):
        return ServerState(channel.init(params), server.init(params), optax.tree.zeros_like(widen(params)))

    def send(tree, weight, state):
        sent, messages = channel.send(tree, weight, state.messages)
        asked = optax.tree.add(state.error, sent.mean)  # q = e + mean
        message, server_state = server.compress(asked, state.server)
        mean = server.decompress(message, asked)  # u = S(q)
        some = jnp.any(sent.weights > 0)
        error = choose(some, optax.tree.sub(asked, mean), state.error)
        return sent._replace(mean=mean), ServerState(messages, server_state, error)

    return Channel(init, send)


def two_phase(compressor: Compressor, server: Compressor | None, axis_name: AxisName | None) -> Channel:
    """Averages a slice of all trees on each worker, and sends it to all, compressed again.

    Args:
        compressor: Compresses slices of trees.
        server: Compresses slices of the mean, with error feedback. None: `compressor` does, and what it leaves out is
            forgotten.
        axis_name: Name of the axis over workers.
    """
    answering = compressor if server is None else server

    def init(params):
        error = None if server is None else _no_error(params, axis_name)
        return ServerState(compressor.init(params), answering.init(params), error)

    def send(tree, weight, state):
        workers = number_of_workers(axis_name)
        slices, join = _cut(tree, workers)
        message, kept, messages = _compress(compressor, slices, state.messages, weight)
        weights = gather_together(jnp.where(kept, weight, 0), axis_name)
        rows = _stack(message)
        if axis_name is not None:
            rows = jax.tree.map(lambda x: jax.lax.all_to_all(x, axis_name, 0, 0), rows)
        total = compressor.combine(weights, [rows], slices[:1])
        (asked,) = _divide(total, jnp.sum(weights))
        if state.error is not None:
            _require_length(state.error, asked, workers)
            asked = asked + state.error
        answer, server_state = answering.compress([asked], state.server)
        (told,) = answering.decompress(answer, [asked])
        some = jnp.any(weights > 0)
        error = None if state.error is None else choose(some, asked - told, state.error)
        answers = gather_together(answer[0], axis_name)
        each = [jax.tree.map(lambda x, i=i: x[i], answers) for i in range(workers)]
        mean = join(answering.decompress(each, slices))
        own = join(_unpack(compressor, message, slices, kept))
        return Sent(own, mean, None, weights, kept, jnp.array(False)), ServerState(messages, server_state, error)

    return Channel(init, send)


def number_of_workers(axis_name: AxisName | None) -> int:
    """Returns the size of the axis; 1 without an axis."""
    return 1 if axis_name is None else jax.lax.axis_size(axis_name)


def _compress(compressor: Compressor, tree: Any, state: Any, weight: jax.Array) -> tuple[Any, jax.Array, Any]:
    """Returns the message, whether it counts, and the next state of the compressor."""
    finite = all_finite(tree)
    # What workers share, such as the largest of their scales, must not come from a tree that is left out.
    message, state = compressor.compress(choose(finite, tree, optax.tree.zeros_like(tree)), state)
    return message, finite & all_finite(message) & (weight > 0), state


def _unpack(compressor: Compressor, message: Any, like: Any, kept: jax.Array) -> Any:
    """Returns what this worker's message says, at least in float32; zero if it is left out."""
    own = widen(compressor.decompress(message, like))
    return choose(kept, own, optax.tree.zeros_like(own))


def _add_on_the_way(
    sums: Sums,
    message: Any,
    like: Any,
    weight: jax.Array,
    kept: jax.Array,
    workers: int,
    axis_name: AxisName | None,
) -> Any:
    """Adds up messages that all workers scale and place alike.

    Raises:
        ValueError: If integers are to be weighted.
    """

    def weighted(x):
        if weight.dtype == bool:
            return jnp.where(kept, x, jnp.zeros_like(x))
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            raise ValueError(
                "layout='sum' adds integers here, which cannot be weighted: pass weight as a boolean, or use"
                " layout='gather'"
            )
        return jnp.where(kept, weight.astype(x.dtype) * x, 0)

    addends = jax.tree.map(weighted, sums.addends(message, workers))
    total = addends if axis_name is None else jax.lax.psum(addends, axis_name)
    return sums.total(total, message, like)


def _layout(
    compressor: Compressor,
    sums: Sums,
    tree: Any,
    workers: int,
    layout: Layout | None,
    count: Count,
    weight: jax.Array,
) -> Layout:
    """Returns the layout; if none is given, the one that sends fewer bytes."""
    if workers == 1 or count == "senders":
        return "gather"
    if layout is not None:
        return layout
    if weight.dtype != bool:
        return "gather"

    def addends(tree):
        return sums.addends(compressor.compress(tree, compressor.init(tree))[0], workers)

    added = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(addends, tree)))
    # An array is sent n - 1 times to gather it, and 2 (n - 1) / n times to add it.
    return "sum" if 2 * added < workers * nbytes(compressor, tree) else "gather"


def _ones(rows: Any) -> Any:
    """Replaces all entries that messages hold by one.

    Raises:
        TypeError: If messages do not name the entries that they hold.
    """

    def is_entries(x):
        return isinstance(x, Entries)

    def ones(x):
        if not is_entries(x):
            raise TypeError(
                "count='senders' needs a compressor that sends some entries and their places, such as"
                " optkit.compressors.top_k; with others use count='workers'"
            )
        return x._replace(values=jnp.ones(x.places.shape, scalar_dtype(x.values)))

    return jax.tree.map(ones, rows, is_leaf=is_entries)


def _divide(total: Any, held: Any) -> Any:
    """Divides a sum by the weight of those that sent it, one number or a tree of them; what nobody sent is zero."""

    def divide(x, by):
        return x / jnp.where(by > 0, by, 1).astype(x.dtype)

    one = isinstance(held, jax.Array) and held.ndim == 0
    return jax.tree.map(lambda x: divide(x, held), total) if one else jax.tree.map(divide, total, held)


def _cut(tree: Any, workers: int) -> tuple[list[jax.Array], Callable[[list[jax.Array]], Any]]:
    """Cuts a tree into equal slices, filled up with zeros; returns them and a function that joins slices."""
    flat, unravel = ravel_pytree(tree)
    length = _slice_length(tree, workers)
    padded = jnp.pad(flat, (0, workers * length - flat.size)).reshape(workers, length)
    return list(padded), lambda slices: unravel(jnp.concatenate(slices)[: flat.size])


def _slice_length(tree: Any, workers: int) -> int:
    return math.ceil(sum(x.size for x in jax.tree.leaves(tree)) / workers)


def _no_error(params: Any, axis_name: AxisName | None) -> jax.Array:
    """Returns zeros for a worker's slice.

    Raises:
        ValueError: If the axis is not there, so that the number of slices is not known.
    """
    try:
        workers = number_of_workers(axis_name)
    except NameError as error:
        raise ValueError(
            "layout='two_phase' with feedback keeps the error of this worker's slice: call init on the workers, too, as"
            f" optkit.on_workers(tx.init, axis_name={axis_name!r})"
        ) from error
    return jnp.zeros([_slice_length(params, workers)], scalar_dtype(params))


def _require_length(error: jax.Array, piece: jax.Array, workers: int) -> None:
    """Raises if a state belongs to another number of workers.

    Raises:
        ValueError: If the error's slice has another length.
    """
    if error.shape != piece.shape:
        raise ValueError(
            f"layout='two_phase' keeps the error of a slice of {error.size} entries, but with {workers} workers a slice"
            f" has {piece.size}: call init with as many workers as update"
        )


def _stack(parts: Any) -> Any:
    """Stacks the compressed slices.

    Raises:
        ValueError: If the compressor does not treat each slice by itself.
    """
    if not isinstance(parts, list) or len({jax.tree.structure(part) for part in parts}) > 1:
        raise ValueError(
            "layout='two_phase' needs a compressor that treats each leaf by itself, such as optkit.compressors.top_k"
            " or scaled_sign: others compress all leaves as one, which workers cannot do in slices"
        )
    return jax.tree.map(lambda *x: jnp.stack(x), *parts)
