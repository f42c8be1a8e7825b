"""How these methods see leaves as matrices: rows are a layer's outputs and columns its inputs, as in the papers."""

from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers

from optkit.core.matrix_view import MatrixView, from_matrices, matrix_views, to_matrices


def is_matrix(tree: Any) -> Any:
    """Says of each leaf of a tree whether it has two axes or more."""
    return jax.tree.map(lambda x: x.ndim >= 2, tree)


def leaf_views(tree: Any, weight_dimension_numbers: Any = None) -> Any:
    """Says how each leaf is seen as matrices.

    Args:
        tree: arrays.
        weight_dimension_numbers: see `matrix_views`; but one for all leaves is for those of two axes or more, and by
            default the last axis of these is over outputs and all others are over inputs, as in kernels of Flax's dense
            layers and convolutions.

    Returns:
        A tree of `MatrixView`, None where a leaf is no matrix.

    Example:
        >>> import jax.numpy as jnp
        >>> view = leaf_views(jnp.ones((3, 3, 2, 4)))
        >>> view.row_count, view.column_count
        (4, 18)
    """

    def numbers(x):
        last = x.ndim - 1
        return weight_dimension_numbers or MuonDimensionNumbers(tuple(range(last)), last) if last > 0 else None

    one_for_all = weight_dimension_numbers is None or isinstance(weight_dimension_numbers, MuonDimensionNumbers)
    return matrix_views(tree, jax.tree.map(numbers, tree) if one_for_all else weight_dimension_numbers)


def matrix_shape(view: MatrixView) -> tuple[int, ...]:
    """Gives the shape of the matrices that a leaf is seen as: axes over separate matrices, rows, columns."""
    return *(view.shape[axis] for axis in view.batch), view.row_count, view.column_count


def on_matrices(
    inner: optax.GradientTransformationExtraArgs, weight_dimension_numbers: Any
) -> optax.GradientTransformationExtraArgs:
    """Gives a transformation matrices in place of leaves, and leaves in place of its matrices.

    Args:
        inner: sees the trees with matrices of rows and columns, behind the axes over separate matrices.
        weight_dimension_numbers: as in `leaf_views`; every leaf must be seen as matrices.

    Returns:
        A transformation with the state of `inner`.
    """

    def matrices(tree):
        return jax.tree.map(_rows_and_columns, tree, leaf_views(tree, weight_dimension_numbers))

    def init_fn(params):
        return inner.init(matrices(params))

    def update_fn(updates, state, params=None, **extra_args):
        params = None if params is None else matrices(params)
        results, state = inner.update(matrices(updates), state, params, **extra_args)
        return jax.tree.map(_leaf, results, leaf_views(updates, weight_dimension_numbers), updates), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _rows_and_columns(x: jax.Array, view: MatrixView) -> jax.Array:
    matrices = to_matrices(x, view)
    return matrices if view.rows_first else matrices.mT


def _leaf(matrices: jax.Array, view: MatrixView, like: jax.Array) -> jax.Array:
    return from_matrices(like, view, matrices if view.rows_first else matrices.mT)
