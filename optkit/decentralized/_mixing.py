"""Mixing: each worker replaces its values by a weighted mean of its own and its neighbours' values.

A `Mixing` is a function of one worker's values. Call it inside a function that is mapped over the axis of workers.
Methods take a `Mixing` as an argument, so any method runs with any mixing.
"""

import math
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from optkit.core.injection import refuse_arrays
from optkit.core.precision import widen
from optkit.core.types import AxisName
from optkit.core.workers import collectives
from optkit.core.workers.on_workers import check_axis_name
from optkit.decentralized.topology import Topology
from optkit.decentralized.topology._topology import Round, require_topology
from optkit.method import Method

__all__ = ["mix"]

# Arrays of at most this many bytes travel together: one more message costs as much as some thousand more numbers.
_SMALL = 2**14


class Mixing(Protocol):
    """How workers mix their values: `mix`, or a function made by `repeated_mix`, `chebyshev_mix` and others."""

    def __call__(
        self,
        tree: Any,
        topology: Topology,
        axis_name: AxisName,
        /,
        *,
        step: int | jax.Array = 0,
        links: jax.Array | None = None,
    ) -> Any:
        """Returns one worker's mixed values, in the dtypes of the values that came in.

        Args:
            tree: One worker's arrays.
            topology: Which workers exchange messages, from `optkit.topology`.
            axis_name: Name of the axis over workers.
            step: Number of exchanges so far, an integer that is equal on all workers. Default: 0.
            links: Which messages arrive, see `mix`. Default: all.

        Returns:
            A tree of the same structure.
        """
        ...


def mix(
    tree: Any,
    topology: Topology,
    axis_name: AxisName,
    *,
    step: int | jax.Array = 0,
    links: jax.Array | None = None,
) -> Any:
    """Replaces a worker's values by a weighted mean of its own and its neighbours' values.

    The rule, where W_ij is the weight that worker i gives to the message of worker j::

        x_i = x_i + sum_j W_ij * (x_j - x_i)

    The mean over workers stays the same, apart from rounding. Sums are computed in float32 at least; messages have the
    dtype of the values. In the compiled program a worker sends its values once in each of `topology.rounds`, by
    `collective-permute`; small arrays of the same dtype travel together in one message. If every worker hears every
    other, mixing is one `all-reduce` in float32 at least; if, moreover, weights differ or links are given, it is one
    `all-gather`, for which each worker holds the values of all workers in memory.

    Use it when workers have to come closer to each other in each step, with one message to each neighbour. Avoid it
    when one exchange is not enough, because on sparse graphs it brings workers together slowly: `chebyshev_mix` comes
    closer to the mean with several exchanges.

    Args:
        tree: One worker's arrays. Arrays that are not floating-point numbers stay as they are.
        topology: Which workers exchange messages, from `optkit.topology`.
        axis_name: Name of the axis over workers.
        step: Number of exchanges so far, an integer that must be equal on all workers. It selects the current step of a
            periodic topology. Default: 0.
        links: Which messages arrive in this step: booleans of shape (workers, workers), equal on all workers. The entry
            in row i and column j says whether worker i hears worker j. A message that is not heard is replaced by the
            receiver's own value, and may be NaN. The mean over workers stays the same only if the topology and the
            links are symmetric, that is, if a link fails in both directions. `links_among` and `lossy_links` make such
            arrays. Default: all messages arrive.

    Returns:
        The mixed tree, in the dtypes of `tree`.

    Raises:
        ValueError: If the axis and the topology have different numbers of workers, or `links` has another shape.

    Example:
        >>> import jax
        >>> from optkit.decentralized.topology import ring
        >>> over_workers = jax.vmap(lambda x: mix(x, ring(4), "workers"), axis_name="workers")
        >>> over_workers(jnp.array([0.0, 0.0, 3.0, 0.0]))
        Array([0., 1., 1., 1.], dtype=float32)
    """
    require_size(topology, axis_name)
    if links is not None and links.shape != (topology.size, topology.size):
        raise ValueError(f"links must have shape {(topology.size, topology.size)}, got {links.shape}")
    if topology.size == 1:
        return tree
    messages, unpack = pack(tree)
    phases = [_phase(topology, index, axis_name, links) for index in range(topology.period)]
    if topology.period == 1:
        return unpack(phases[0](messages))
    return unpack(collectives.switch(step % topology.period, phases, messages))


def choose_mixing(mixing: Mixing | None, topology: Topology, axis_name: AxisName) -> Mixing:
    """Returns the mixing that a method was given, or `mix` for None, and checks the method's arguments.

    Args:
        mixing: The method's argument. None stands for `mix`.
        topology: The method's argument.
        axis_name: The method's argument.

    Returns:
        The mixing.

    Raises:
        TypeError: If `topology` is not a `Topology`, or `mixing` is not a function (for example an array made by
            `optax.inject_hyperparams`).
        ValueError: If `axis_name` is not one name.

    Example:
        >>> from optkit.decentralized.topology import ring
        >>> choose_mixing(None, ring(4), "workers") is mix
        True
    """
    require_topology(topology)
    check_axis_name(axis_name)
    return require_mixing(mixing)


def require_mixing(mixing: Mixing | None) -> Mixing:
    """Returns the mixing that was given, or `mix` for None, and raises if it is not a mixing.

    Raises:
        TypeError: If it is not a function.
    """
    refuse_arrays(mixing=mixing)
    if mixing is not None and not callable(mixing):
        raise TypeError(f"mixing must be a function, such as mix or chebyshev_mix(4), got {mixing!r}")
    return mix if mixing is None else mixing


def links_by_round(links: jax.Array | None, rounds: int) -> jax.Array | None:
    """Returns the links of each round of a mixing, whether they are the same in all rounds or not.

    Args:
        links: As in `mix`, or an array of shape (rounds, workers, workers) with the links of each round.
        rounds: Number of rounds.

    Returns:
        Links of shape (rounds, workers, workers), or None.

    Raises:
        ValueError: If there are links for another number of rounds.
    """
    if links is None or links.ndim == 2:
        return None if links is None else jnp.broadcast_to(links, (rounds, *links.shape))
    if links.ndim != 3 or links.shape[0] != rounds:
        allowed = f"(workers, workers) or ({rounds}, workers, workers), one for each round"
        raise ValueError(f"links must have shape {allowed}, got {links.shape}")
    return jnp.asarray(links)


def extrapolate(new: Any, old: Any, weight: jax.typing.ArrayLike) -> Any:
    """Returns `old + weight * (new - old)` for floating-point arrays, in their dtypes, and `new` for all others."""

    def between(x, y):
        return y + jnp.asarray(weight, y.dtype) * (x - y) if jnp.issubdtype(y.dtype, jnp.inexact) else x

    return jax.tree.map(between, new, old)


def require_size(topology: Topology, axis_name: AxisName) -> None:
    """Raises an error unless the topology has as many workers as the axis.

    Raises:
        ValueError: If the two numbers differ, or `axis_name` is not one name.
        TypeError: If `topology` is not a `Topology`.
    """
    require_topology(topology)
    check_axis_name(axis_name)
    workers = jax.lax.axis_size(axis_name)
    if workers != topology.size:
        raise ValueError(f"the topology joins {topology.size} workers, but the axis {axis_name!r} has {workers}")


def pack(tree: Any) -> tuple[list[jax.Array], Callable[[list[jax.Array]], Any]]:
    """Packs a tree into few messages.

    Args:
        tree: One worker's arrays.

    Returns:
        The messages: arrays of floating-point numbers, where small arrays of the same dtype are joined to one vector.
        And a function that restores the tree from the mixed messages.
    """
    leaves, structure = jax.tree.flatten(tree)
    floating = [i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.inexact)]
    groups: dict[Any, list[int]] = {}
    for i in floating:
        groups.setdefault(leaves[i].dtype if _is_small(leaves[i]) else i, []).append(i)

    def message(group):
        return leaves[group[0]] if len(group) == 1 else jnp.concatenate([leaves[i].ravel() for i in group])

    def unpack(messages):
        mixed = list(leaves)
        for group, x in zip(groups.values(), messages, strict=True):
            ends = np.cumsum([leaves[i].size for i in group])[:-1].tolist()
            for i, part in zip(group, jnp.split(x, ends) if len(group) > 1 else [x], strict=True):
                mixed[i] = part.reshape(leaves[i].shape)
        return jax.tree.unflatten(structure, mixed)

    return [message(group) for group in groups.values()], unpack


def _is_small(x: jax.Array) -> bool:
    """Returns whether an array may travel together with others; arrays sharded over explicit axes cannot be joined."""
    sharded = any(axis is not None for axis in jax.typeof(x).sharding.spec)
    return math.prod(x.shape) * x.dtype.itemsize <= _SMALL and not sharded


def _phase(
    topology: Topology, index: int, axis_name: AxisName, links: jax.Array | None
) -> Callable[[list[jax.Array]], list[jax.Array]]:
    """Makes the exchange of one step of the topology's period."""
    matrix, rounds = topology.matrices[index], topology.rounds[index]
    if not np.all(matrix + np.eye(topology.size)):
        exchange = _by_permutations(rounds, links, axis_name)
    elif links is None and np.allclose(matrix, 1 / topology.size, rtol=0, atol=1e-12):
        exchange = _by_reduction(axis_name)
    else:
        exchange = _by_gathering(matrix, links, axis_name)
    return lambda messages: [exchange(x).astype(x.dtype) for x in messages]


def _by_reduction(axis_name: AxisName) -> Callable[[jax.Array], jax.Array]:
    return lambda x: jax.lax.pmean(widen(x), axis_name)


def _by_gathering(matrix: np.ndarray, links: jax.Array | None, axis_name: AxisName) -> Callable[[jax.Array], jax.Array]:
    def exchange(x):
        worker, own = jax.lax.axis_index(axis_name), widen(x)
        change = widen(jax.lax.all_gather(x, axis_name)) - own[None]
        weights = jnp.asarray(matrix, own.dtype)[worker]
        if links is not None:
            change = jnp.where(jnp.expand_dims(jnp.asarray(links)[worker], range(1, change.ndim)), change, 0)
        return own + jnp.tensordot(weights, change, 1, precision="highest")

    return exchange


def _by_permutations(
    rounds: tuple[Round, ...], links: jax.Array | None, axis_name: str
) -> Callable[[jax.Array], jax.Array]:
    def exchange(x):
        worker, own = jax.lax.axis_index(axis_name), widen(x)
        change = jnp.zeros_like(own)
        for permutation, weights in rounds:
            difference = widen(jax.lax.ppermute(x, axis_name, permutation)) - own
            if links is None and np.all(weights == weights[0]):
                change = change + float(weights[0]) * difference
                continue
            # A message without weight may be NaN, because it comes from a worker that this one does not hear.
            heard = jnp.asarray(weights != 0)[worker]
            if links is not None:
                senders = np.array([sender for sender, _ in permutation])
                heard = heard & jnp.asarray(links)[worker, jnp.asarray(senders)[worker]]
            change = change + jnp.where(heard, jnp.asarray(weights, own.dtype)[worker] * difference, 0)
        return own + change

    return exchange


METHODS = (
    Method(
        name="mix",
        factory=mix,
        kind="function",
        summary="Replaces a worker's values by a weighted mean of its own and its neighbours' values.",
        also_known_as=(
            "gossip averaging",
            "partial averaging",
            "neighbor_allreduce",
            "neighbor averaging",
            "consensus step",
        ),
        parts=(Mixing,),
    ),
)
