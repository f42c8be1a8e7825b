"""DeMo: workers send the largest frequencies of their momenta, and move by the sign of what they received.

Peng, Quesnelle, Kingma, "DeMo: Decoupled Momentum Optimization", 2024, arXiv:2411.19870. Algorithm 1.
The rule is that of the authors' code (bloc97/DeMo), where the learning rate multiplies the gradient inside the momentum
and a frequency is averaged over the workers that sent it. Leaves of no axis and of more than two, which that code does
not take, are a vector of one entry and stacked matrices here. Entries as small as the rounding of the inverse transform
count as zero: the code moves them by the learning rate, in a direction that depends on the device.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optkit.communication._senders import count_missing, nan_without_senders
from optkit.compressors._leafwise import Entries
from optkit.core.checks import check_integer, check_range
from optkit.core.chunks import Chunks
from optkit.core.complex_numbers import only_real
from optkit.core.decay import add_decay
from optkit.core.injection import refuse_arrays
from optkit.core.non_finite import all_finite, choose
from optkit.core.precision import in_float32, widen
from optkit.core.top_k import add
from optkit.core.types import AxisName, Mask
from optkit.core.workers.gathering import gather_together
from optkit.method import Method, Paper

__all__ = ["demo", "scale_by_demo"]

# The inverse transform is wrong by at most 3.7 times this part of the largest frequency (measured, chunks up to 64x64).
_ROUNDINGS = 4


class ScaleByDemoState(NamedTuple):
    """State of `scale_by_demo`.

    Attributes:
        residual: The momentum that was not sent so far, at least in float32, with the shapes of the parameters. Each
            worker has its own.
        dropped: How many gradients were left out so far because they were not finite, counted over all workers. It is
            equal on all workers.
    """

    residual: optax.Updates
    dropped: jax.Array

    # What the other workers count on, see `optkit.resize_workers`.
    owed = ("residual",)


def scale_by_demo(
    decay: jax.typing.ArrayLike = 0.999,
    *,
    axis_name: AxisName | None,
    top_k: int | None = None,
    chunk_size: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Replaces each worker's gradient by the sign of what the workers' momenta have in common, at few bytes a step.

    The update rule, where a worker i adds its own gradient, DCT transforms each chunk of a leaf, and top_k keeps the
    largest frequencies of each chunk::

        m_i = decay * m_i + g_i
        q_i = top_k(DCT(m_i))
        m_i = m_i - DCT^-1(q_i)
        u = sign(DCT^-1(mean over the workers that sent a frequency of q_i))

    It takes the place of the mean over workers: give each worker its own gradients, not averaged. Updates are equal on
    all workers. Put the learning rate before it too, as `demo` does, so that under a schedule an old gradient keeps the
    learning rate of its own step.

    Use it when workers are joined by a slow network. Avoid it with many workers, because each of them receives the
    messages of all others, and for leaves whose axes have no divisor near `chunk_size`: an axis of prime length is cut
    into single entries, of which all are sent.

    Args:
        decay: Share of the momentum that is kept in each step, in [0, 1). Default: 0.999.
        axis_name: Name of the axis over workers. None means that there is only one worker.
        top_k: How many frequencies of each chunk are sent, at least 1. Default: None, which stands for 32. In a smaller
            chunk it is all of them.
        chunk_size: The largest number of rows, and of columns, in a chunk, at least 1. Default: None, which stands for
            64. A chunk has the largest number of rows that divides those of the matrix, and the same for columns. Of a
            leaf of more than two axes, the last two are matrices; a vector is cut into vectors.

    Returns:
        A transformation. Its state is one number per parameter. A worker sends 6 bytes for each frequency, its value
        and its place in a chunk, and one word more, in a single `all-gather`. A worker whose gradient is not finite
        sends nothing, keeps its momentum as it is, and is counted in the state; without any other worker the updates
        are NaN.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: From `init`, if parameters are complex.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.scale_by_demo(axis_name="workers", top_k=1)
        >>> step = lambda gradients: tx.update(gradients, tx.init(gradients))[0]
        >>> step = optkit.on_workers(step, axis_name="workers", backend="vmap")
        >>> step(jnp.array([[3.0, 3.0], [-1.0, -1.1]])).tolist()
        [[1.0, 1.0], [1.0, 1.0]]

    Reference:
        arXiv:2411.19870
    """
    refuse_arrays(axis_name=axis_name, top_k=top_k, chunk_size=chunk_size)
    check_range("decay", decay, 0.0, 1.0, high_open=True)
    most, longest = 32 if top_k is None else top_k, 64 if chunk_size is None else chunk_size
    check_integer("top_k", most)
    check_integer("chunk_size", longest)

    def init_fn(params):
        return ScaleByDemoState(residual=optax.tree.zeros_like(widen(params)), dropped=jnp.zeros([], jnp.int32))

    def chunks_of(x):
        return Chunks.square(x.shape, longest)

    def not_sent(momentum, message):
        # Of chunks that are sent whole nothing is left, not even rounding.
        chunks = chunks_of(momentum)
        return jnp.zeros_like(momentum) if chunks.size <= most else momentum - _whole(chunks, message)

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        momentum = jax.tree.map(
            lambda m, g: jnp.asarray(decay, m.dtype) * m + g.astype(m.dtype), state.residual, updates
        )
        frequencies = jax.tree.map(lambda m: _frequencies(chunks_of(m), m), momentum)
        sends = all_finite(frequencies)
        message = jax.tree.map(lambda q: _largest(jnp.where(sends, q, 0), most), frequencies)
        residual = jax.tree.map(not_sent, momentum, message)
        rows, senders = gather_together((message, sends), axis_name)
        signs = jax.tree.map(lambda g, q: _sign_of_mean(q, senders, chunks_of(g)).astype(g.dtype), updates, rows)
        new_state = ScaleByDemoState(
            residual=choose(sends, residual, state.residual), dropped=count_missing(state.dropped, senders)
        )
        return nan_without_senders(senders, signs), new_state

    return only_real("scale_by_demo", optax.GradientTransformationExtraArgs(init_fn, update_fn))


def demo(
    learning_rate: optax.ScalarOrSchedule,
    decay: jax.typing.ArrayLike = 0.999,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    axis_name: AxisName | None,
    top_k: int | None = None,
    chunk_size: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """DeMo: moves every parameter by the sign of the momenta's largest frequencies, which are all that workers send.

    The update rule for the worker i, where sign is that of `scale_by_demo`::

        m_i = decay * m_i + lr * g_i
        q_i = top_k(DCT(m_i))
        m_i = m_i - DCT^-1(q_i)
        x = x - lr * wd * x
        x = x - lr * sign(DCT^-1(mean over the workers that sent a frequency of q_i))

    Give each worker its own gradients, not averaged. Parameters stay equal on all workers.

    Use it to train on machines that are joined by a slow network: with the defaults a worker sends 192 bytes for each
    4096 entries of a matrix, where float32 gradients take 16384. Avoid it on fast networks, where the mean of all
    gradients costs little, and with many workers, because each of them receives the messages of all others.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. It is the length of the step in every
            coordinate.
        decay: See `scale_by_demo`. Default: 0.999.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        axis_name: Name of the axis over workers. None means that there is only one worker.
        top_k: See `scale_by_demo`. Default: None, which stands for 32.
        chunk_size: See `scale_by_demo`. Default: None, which stands for 64.

    Returns:
        An optimizer. Its state is one number per parameter. See `scale_by_demo` for what is sent, and for gradients
        that are not finite.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: From `init`, if parameters are complex.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.demo(0.5, axis_name="workers", top_k=1)
        >>> def step(params, targets):
        ...     updates, _ = tx.update(params - targets, tx.init(params), params)
        ...     return optax.apply_updates(params, updates)
        >>> step = optkit.on_workers(step, axis_name="workers", backend="vmap")
        >>> step(jnp.zeros((2, 2)), jnp.array([[3.0, 3.0], [-1.0, -1.1]])).tolist()
        [[0.5, 0.5], [0.5, 0.5]]

    Reference:
        arXiv:2411.19870
    """
    refuse_arrays(mask=mask)
    direction = scale_by_demo(decay, axis_name=axis_name, top_k=top_k, chunk_size=chunk_size)
    return only_real(
        "demo",
        in_float32(
            optax.chain(
                optax.scale_by_learning_rate(learning_rate, flip_sign=False),
                direction,
                add_decay("demo", weight_decay, mask),
                optax.scale_by_learning_rate(learning_rate),
            )
        ),
    )


def _transform(x: jax.Array, axes: str) -> jax.Array:
    """Multiplies stacked chunks, or their frequencies, by the cosines of both axes."""
    height, width = (jnp.asarray(_cosines(size), x.dtype) for size in x.shape[1:])
    return jnp.einsum(axes, x, height, width, precision="highest")


def _frequencies(chunks: Chunks, x: jax.Array) -> jax.Array:
    """Returns the discrete cosine transform of each chunk, one chunk in a row."""
    return _transform(chunks.split(x), "nhw,hk,wl->nkl").reshape(chunks.number, chunks.size)


def _inverse(chunks: Chunks, frequencies: jax.Array) -> jax.Array:
    """Undoes `_frequencies`."""
    stacked = frequencies.reshape(chunks.number, chunks.rows[1], chunks.columns[1])
    return chunks.join(_transform(stacked, "nkl,hk,wl->nhw"))


def _whole(chunks: Chunks, entries: Entries) -> jax.Array:
    """Returns the leaf that has these frequencies, and none else."""
    zeros = jnp.zeros((len(entries.values), chunks.size), entries.values.dtype)
    return _inverse(chunks, _add(zeros, entries.places, entries.values))


def _cosines(size: int) -> np.ndarray:
    """Returns the orthonormal discrete cosine transform of type II: entries in rows, frequencies in columns."""
    entry, frequency = np.arange(size)[:, None], np.arange(size)
    scale = np.where(frequency == 0, np.sqrt(1 / size), np.sqrt(2 / size))
    return scale * np.cos((2 * entry + 1) * frequency * np.pi / (2 * size))


def _largest(frequencies: jax.Array, most: int) -> Entries:
    """Takes the frequencies of largest magnitude of each chunk; of equal ones, the first."""
    size = frequencies.shape[1]
    places = jax.lax.top_k(jnp.abs(frequencies), min(most, size))[1]
    values = jnp.take_along_axis(frequencies, places, axis=1)
    return Entries(values, places.astype(jnp.int16 if size <= 2**15 else jnp.int32))


def _add(frequencies: jax.Array, places: jax.Array, values: jax.Array) -> jax.Array:
    """Adds values to frequencies of each chunk."""
    return jax.vmap(add)(frequencies, places, values)


def _sign_of_mean(rows: Entries, senders: jax.Array, chunks: Chunks) -> jax.Array:
    """Averages each frequency over the workers that sent it, and returns the sign of the inverse transform."""
    values, places = rows
    zeros = jnp.zeros((values.shape[1], chunks.size), values.dtype)

    # One worker after the other, so that all devices add in the same order.
    def add_row(carry, row):
        (total, count), (values, places, sends) = carry, row
        once = jnp.broadcast_to(sends.astype(values.dtype), values.shape)
        return (_add(total, places, values), _add(count, places, once)), None

    (total, count), _ = jax.lax.scan(add_row, (zeros, zeros), (values, places, senders))
    x = _inverse(chunks, total / jnp.maximum(count, 1))
    largest = jnp.max(jnp.abs(values), axis=(0, 2), initial=0)
    rounding = _ROUNDINGS * jnp.finfo(values.dtype).eps * chunks.spread(largest)
    return jnp.where(jnp.abs(x) <= rounding, 0, jnp.sign(x))


METHODS = (
    Method(
        name="demo",
        factory=demo,
        kind="optimizer",
        summary="Moves by the sign of the momenta's largest frequencies, which are all that workers send.",
        paper=Paper("DeMo: Decoupled Momentum Optimization", "Peng, Quesnelle, Kingma", 2024, "2411.19870"),
        also_known_as=("DeMo", "decoupled momentum", "DisTrO"),
        parts=(scale_by_demo,),
        example={"learning_rate": 1e-2, "axis_name": "workers", "top_k": 2},
        grid=1e-3,
        needs=("axis_name",),
        tunable={"decay": (0.9, 0.9999, "1-log")},
    ),
)
