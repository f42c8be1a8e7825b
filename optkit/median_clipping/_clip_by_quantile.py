"""Clipping of the largest coordinates, a given fraction of them at each step.

Pan, Li, "Toward Understanding Why Adam Converges Faster Than SGD for Transformers", 2023, arXiv:2306.00204. The
threshold is the k-th largest absolute value with `k = max(1, ceil(fraction * n))`. Public code of these experiments
takes the threshold over all leaves together, and the next smaller value: the one after the `floor(fraction * n)`
largest.
"""

import functools
import itertools
import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_range
from optkit.core.complex_numbers import refuse_complex
from optkit.core.injection import refuse_arrays
from optkit.core.precision import widen
from optkit.core.types import AxisName
from optkit.method import Method, Paper

__all__ = ["clip_by_quantile"]

_COUNTED_AT_ONCE = 2**32


def _kth_largest(tree: Any, k: int, axis_name: AxisName | None) -> jax.Array:
    """Returns the k-th largest absolute value of a tree's coordinates.

    Nonnegative floats have the same order as the integers with the same bits. So the value is found bit by bit, by
    counting the coordinates that are not smaller. This is exact, needs no sort, and gathers nothing that is sharded.
    """
    leaves = jax.tree.leaves(tree)
    dtype = jnp.result_type(*leaves)
    integer = jnp.dtype(f"int{8 * dtype.itemsize}")
    keys = [jax.lax.bitcast_convert_type(jnp.abs(leaf).astype(dtype), integer) for leaf in leaves]
    highest = jnp.iinfo(integer).bits - 2  # below the sign

    def add_bit(i, found):
        candidate = found | (jnp.ones((), integer) << (highest - i).astype(integer))
        counts = [_count(key >= candidate) for key in keys]
        high, low = _carry(*(functools.reduce(jnp.add, words) for words in zip(*counts, strict=True)))
        if axis_name is not None:
            high, low = _carry(*jax.lax.psum((high, low), axis_name))
        return jnp.where((high > k >> 16) | ((high == k >> 16) & (low >= k & 0xFFFF)), candidate, found)

    found = jax.lax.fori_loop(0, highest + 1, add_bit, jnp.zeros((), integer))
    return jax.lax.bitcast_convert_type(found, dtype)


def _count(marked: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Counts the true entries, as a multiple of 2**16 and a rest: a leaf may have more entries than 32 bits count."""
    sizes = list(itertools.accumulate(marked.shape, operator.mul))
    first = sum(size < _COUNTED_AT_ONCE for size in sizes)
    counts = jnp.sum(marked, axis=tuple(range(first)), dtype=jnp.uint32)
    return _carry(jnp.sum(counts >> 16, dtype=jnp.uint32), jnp.sum(counts & 0xFFFF, dtype=jnp.uint32))


def _carry(high: jax.Array, low: jax.Array) -> tuple[jax.Array, jax.Array]:
    return high + (low >> 16), low & 0xFFFF


def clip_by_quantile(
    fraction: float | None = None, *, per_leaf: bool = False, axis_name: AxisName | None = None
) -> optax.GradientTransformation:
    """Clips the largest coordinates to the smallest absolute value among them. It has no state.

    The update rule, where n is the number of coordinates of all leaves::

        k = max(1, ceil(fraction * n))
        t = the k-th largest absolute value of g
        u = min(max(g, -t), t)

    Use it when a few directions are much steeper than the others and limit SGD's learning rate. After `optax.trace` it
    clips the momentum. For a fixed threshold use `optax.clip`. Avoid it when more than `fraction` of the coordinates
    are steep, because it then gains nothing, and before Adam, whose training it slowed down on digits. Where more than
    a share `1 - fraction` of the coordinates is zero, the threshold is zero and nothing moves: for embeddings with
    sparse gradients use `per_leaf=True`, or leave them out.

    NaN counts as the largest value and stays NaN.

    Args:
        fraction: Share of the coordinates that is clipped, in (0, 1]. The smallest of them keeps its value. With 1 the
            update is the sign times the smallest absolute value. Default: 0.1.
        per_leaf: Whether each leaf has its own threshold, instead of one for all leaves. Default: False.
        axis_name: Name of the axis over workers. Inside `jax.shard_map` each of them holds a shard of every leaf; the
            quantile is then that of whole leaves. None (the default): leaves are whole, or sharded by `jit`.

    Returns:
        A transformation without state.

    Raises:
        ValueError: If `fraction` is outside (0, 1].

    Example:
        >>> import optkit
        >>> tx = optkit.clip_by_quantile(0.5)
        >>> tx.update(jnp.array([1.0, -8.0, 4.0, -2.0]), tx.init(None))[0]
        Array([ 1., -4.,  4., -2.], dtype=float32)

    Reference:
        arXiv:2306.00204
    """
    refuse_arrays(fraction=fraction, per_leaf=per_leaf, axis_name=axis_name)
    check_range("fraction", fraction, 0.0, 1.0, low_open=True)
    share = 0.1 if fraction is None else fraction

    def clip(tree):
        workers = 1 if axis_name is None else jax.lax.axis_size(axis_name)
        size = workers * optax.tree.size(tree)
        if size == 0:
            return tree
        k = max(1, math.ceil(share * size))
        threshold = _kth_largest(widen(tree), k, axis_name)
        return jax.tree.map(lambda g: jnp.clip(g, -threshold.astype(g.dtype), threshold.astype(g.dtype)), tree)

    def init_fn(params):
        refuse_complex(params, "clip_by_quantile")
        return optax.init_empty_state(params)

    def update_fn(updates, state, params=None):
        del params
        return jax.tree.map(clip, updates) if per_leaf else clip(updates), state

    return optax.GradientTransformation(init_fn, update_fn)


METHODS = (
    Method(
        name="clip_by_quantile",
        factory=clip_by_quantile,
        kind="transformation",
        summary="Clips a fixed fraction of the coordinates, the largest, to the smallest absolute value among them.",
        paper=Paper(
            "Toward Understanding Why Adam Converges Faster Than SGD for Transformers", "Pan, Li", 2023, "2306.00204"
        ),
        also_known_as=("coordinate-wise clipping", "coordinate clipping"),
        grid=0.1,
        golden="coordinate_clip",
    ),
)
