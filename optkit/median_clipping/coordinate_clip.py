"""Clipping of the largest coordinates: each step, a threshold below which a given fraction of them does not fall.

Pan, Li, "Toward Understanding Why Adam Converges Faster Than SGD for Transformers", 2023, arXiv:2306.00204. The
threshold is the k-th largest absolute value, `k = max(1, ceil(fraction * n))`. Public code of these experiments takes
that of all leaves together, and the next smaller value: the one after `floor(fraction * n)` larger ones.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_range
from optkit.core.precision import in_float32, widen


def _kth_largest(tree: Any, k: int, axis_name: str | None) -> jax.Array:
    """The k-th largest absolute value of a tree's coordinates.

    Nonnegative floats are ordered like the integers with the same bits. So the value is found bit by bit, by counting
    the coordinates that are no smaller: exact, without a sort, and without gathering what is sharded.
    """
    leaves = jax.tree.leaves(tree)
    dtype = jnp.result_type(*leaves)
    integer = jnp.dtype(f"int{8 * dtype.itemsize}")
    keys = [jax.lax.bitcast_convert_type(jnp.abs(leaf).astype(dtype), integer) for leaf in leaves]
    highest = jnp.iinfo(integer).bits - 2  # below the sign

    def add_bit(i, found):
        candidate = found | (jnp.ones((), integer) << (highest - i).astype(integer))
        count = sum(jnp.sum(key >= candidate, dtype=jnp.int32) for key in keys)
        count = count if axis_name is None else jax.lax.psum(count, axis_name)
        return jnp.where(count >= k, candidate, found)

    found = jax.lax.fori_loop(0, highest + 1, add_bit, jnp.zeros((), integer))
    return jax.lax.bitcast_convert_type(found, dtype)


def clip_by_quantile(
    fraction: float = 0.1, *, per_leaf: bool = False, axis_name: str | None = None
) -> optax.GradientTransformation:
    """Clips the largest coordinates to the smallest absolute value among them.

    Behind `optax.trace` it clips the momentum. With a fixed threshold it is `optax.clip`. Where more than a share
    `1 - fraction` of the coordinates is zero, so is the threshold, and nothing moves: take it per leaf, or not at all,
    for embeddings with sparse gradients. NaN counts as the largest value and stays NaN.

    Args:
        fraction: which share of the coordinates is clipped, in (0, 1]; default 0.1. Of `n` it is `ceil(fraction * n)`,
            the smallest of which keeps its value. 1 is the sign times the smallest absolute value.
        per_leaf: whether each leaf has its own threshold; by default there is one for all.
        axis_name: the axis over which every leaf is sharded inside `jax.shard_map`, so that the quantile is that of
            whole leaves. None (default) where leaves are whole, or sharded by `jit`.

    Returns:
        A transformation without state. Its `update` raises a `ValueError` where one threshold is asked for more than
        `2**31 - 1` coordinates.

    Raises:
        ValueError: if `fraction` is out of its range.

    Example:
        >>> import optkit
        >>> tx = optkit.clip_by_quantile(0.5)
        >>> tx.update(jnp.array([1.0, -8.0, 4.0, -2.0]), tx.init(None))[0]
        Array([ 1., -4.,  4., -2.], dtype=float32)

    Reference:
        Pan, Li, "Toward Understanding Why Adam Converges Faster Than SGD for Transformers", 2023, arXiv:2306.00204.
    """
    check_range("fraction", fraction, 0.0, 1.0, low_open=True)

    def clip(tree):
        workers = 1 if axis_name is None else jax.lax.axis_size(axis_name)
        size = workers * optax.tree.size(tree)
        if size > jnp.iinfo(jnp.int32).max:
            raise ValueError(f"clip_by_quantile counts up to 2**31 - 1 coordinates, got {size}: pass per_leaf=True")
        if size == 0:
            return tree
        k = max(1, math.ceil(fraction * size))
        threshold = _kth_largest(widen(tree), k, axis_name)
        return jax.tree.map(lambda g: jnp.clip(g, -threshold.astype(g.dtype), threshold.astype(g.dtype)), tree)

    def update_fn(updates, params):
        del params
        return jax.tree.map(clip, updates) if per_leaf else clip(updates)

    return optax.stateless(update_fn)


def coordinate_clip_sgd(
    learning_rate: optax.ScalarOrSchedule,
    fraction: float = 0.1,
    weight_decay: float | jax.Array = 0.0,
    mask: Any | None = None,
    *,
    per_leaf: bool = False,
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """SGD that clips the largest coordinates of each gradient, so that few steep directions do not set the rate.

    Do not take it where the steep directions are more than `fraction` of the coordinates: it then gains nothing.

    Args:
        learning_rate: a positive number or a schedule; larger than SGD's.
        fraction: which share of the coordinates is clipped, in (0, 1]; default 0.1.
        weight_decay: strength of the decoupled decay, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        per_leaf: whether each leaf has its own threshold; by default there is one for all.
        axis_name: the axis over which every leaf is sharded inside `jax.shard_map`; None (default) where leaves are
            whole, or sharded by `jit`.

    Returns:
        An optimizer without state.

    Raises:
        ValueError: if a hyperparameter is out of its range.

    Example:
        >>> import optkit
        >>> tx = optkit.coordinate_clip_sgd(0.5, fraction=0.5)
        >>> params = jnp.zeros(4)
        >>> tx.update(jnp.array([1.0, -8.0, 4.0, -2.0]), tx.init(params), params)[0]
        Array([-0.5,  2. , -2. ,  1. ], dtype=float32)

    Reference:
        Pan, Li, "Toward Understanding Why Adam Converges Faster Than SGD for Transformers", 2023, arXiv:2306.00204.
    """
    check_range("weight_decay", weight_decay, 0.0)
    return in_float32(
        optax.chain(
            clip_by_quantile(fraction, per_leaf=per_leaf, axis_name=axis_name),
            optax.add_decayed_weights(weight_decay, mask),
            optax.scale_by_learning_rate(learning_rate),
        )
    )
