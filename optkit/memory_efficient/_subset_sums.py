"""Subsets of a leaf's entries: the sums of their squares, and the broadcast of these sums back to the entries."""

import math
from typing import Literal

import jax
import jax.numpy as jnp

from optkit.core.linalg.explicit_axes import replicate, shard_like
from optkit.core.linalg.matrix_view import MatrixView
from optkit.core.precision import widen

SubsetSize = int | Literal["heuristics"]


def block_size(size: int, subset_size: int) -> int:
    """Returns the size of the blocks of a flattened leaf: its largest divisor up to the size that is asked for.

    Args:
        size: Size of the leaf.
        subset_size: Size of a block; -j stands for `sqrt(size) / j`.

    Returns:
        A positive divisor of `size`.

    Example:
        >>> block_size(192, 5), block_size(192, -1), block_size(17, 4)
        (4, 12, 1)
    """
    wanted = subset_size if subset_size > 0 else int(math.sqrt(size) / -subset_size)
    return next(k for k in range(min(max(wanted, 1), max(size, 1)), 0, -1) if size % k == 0)


def subset_sum_of_squares(x: jax.Array, subset_size: SubsetSize, view: MatrixView | None = None) -> jax.Array:
    """Sums the squared magnitudes of each subset of a leaf, at least in float32; a sum that overflows becomes NaN.

    Args:
        x: A leaf.
        subset_size: See `scale_by_subset_norm`.
        view: How the leaf is seen as matrices; None if it is not a matrix.

    Returns:
        One number for each subset, with the shape that `ScaleBySubsetNormState.nu` describes.

    Example:
        >>> from optkit.memory_efficient._matrices import leaf_views
        >>> x = jnp.array([[1.0, 2.0], [2.0, 0.0], [0.0, 3.0]])
        >>> subset_sum_of_squares(x, "heuristics", leaf_views(x)).tolist()
        [[5.0], [4.0], [9.0]]
    """
    wide = widen(x)
    squares = wide.real**2 + wide.imag**2 if jnp.iscomplexobj(wide) else wide**2
    if subset_size == "heuristics":
        sums = squares
        if view is not None:
            shorter = view.columns if view.row_count >= view.column_count else view.rows
            sums = jnp.sum(squares, axis=shorter, keepdims=True)
    else:
        *batch, entries = _flat_shape(x.shape, view)
        size = block_size(entries, subset_size)
        sums = squares
        if size > 1:
            ordered = jnp.moveaxis(replicate(squares), () if view is None else view.batch, range(len(batch)))
            sums = jnp.sum(ordered.reshape(*batch, -1, size), axis=-1)
    # An infinite sum would stop its subset forever without a sign of it.
    return jnp.where(jnp.isinf(sums), jnp.nan, sums)


def spread(values: jax.Array, like: jax.Array, view: MatrixView | None) -> jax.Array:
    """Reshapes one number for each subset so that it broadcasts over the entries of the leaf."""
    if values.ndim == like.ndim and all(
        size in (1, whole) for size, whole in zip(values.shape, like.shape, strict=True)
    ):
        return values
    *batch, entries = _flat_shape(like.shape, view)
    axes = () if view is None else view.batch
    blocks = jnp.broadcast_to(values[..., None], (*values.shape, entries // values.shape[-1]))
    rest = (size for axis, size in enumerate(like.shape) if axis not in axes)
    return shard_like(jnp.moveaxis(blocks.reshape(*batch, *rest), range(len(batch)), axes), like)


def _flat_shape(shape: tuple[int, ...], view: MatrixView | None) -> tuple[int, ...]:
    """Returns the sizes of the axes that count matrices, followed by the number of entries of each matrix."""
    batch = () if view is None else tuple(shape[axis] for axis in view.batch)
    return *batch, math.prod(shape[axis] for axis in range(len(shape)) if view is None or axis not in view.batch)
