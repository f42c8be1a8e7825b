"""How this family sees leaves as matrices: rows are a layer's outputs and columns its inputs, as in the papers."""

from typing import Any

import jax
import optax

from optkit.core.linalg.matrix_view import MatrixView, from_matrices, leaf_name, matrix_view, to_matrices
from optkit.core.matrices_and_others import kinds_of_leaves
from optkit.core.trees import resolve


def chosen_leaves(method: str, name: str, choice: Any | None, tree: Any, weight_dimension_numbers: Any | None) -> Any:
    """Returns which leaves a method treats as matrices.

    Args:
        method: Public name of the method, for messages.
        name: Name of its argument `choice`, for messages.
        choice: A tree of booleans, a prefix of `tree`, or a function that makes it from `tree`. None stands for the
            leaves that have dimension numbers; without any dimension numbers, for the leaves of exactly two axes.
        tree: The whole tree of parameters or gradients.
        weight_dimension_numbers: See `leaf_views`.

    Returns:
        A tree of booleans.

    Raises:
        ValueError: If no leaf is chosen although one has two axes or more; or if, without a choice, a leaf of two axes
            or more is called `bias` or `scale`.

    Example:
        >>> import jax.numpy as jnp
        >>> chosen_leaves("frugal", "leaves", None, {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}, None)
        {'bias': False, 'kernel': True}
    """
    if choice is None:
        kinds, _ = kinds_of_leaves(method, tree, None, weight_dimension_numbers)
        return jax.tree.map(lambda kind: kind == "matrix", kinds)
    chosen = resolve(name, choice, tree)
    with_matrices = [leaf_name(path) for path, x in jax.tree.leaves_with_path(tree) if x.ndim > 1 and x.size]
    if with_matrices and not any(jax.tree.leaves(chosen)):
        raise ValueError(f"{method}: {name} chooses no leaf, although {with_matrices[0]!r} has two axes or more")
    return chosen


def leaf_views(tree: Any, weight_dimension_numbers: Any | None = None) -> Any:
    """Returns how each leaf is seen as matrices.

    Args:
        tree: Arrays.
        weight_dimension_numbers: Which axes of each matrix are inputs and which are outputs, as in
            `optax.contrib.muon`. A tree of `optax.contrib.MuonDimensionNumbers`, a prefix of `tree`, or a function that
            makes it from `tree`, or one for all leaves of two axes or more. None stands for the layout of Flax's dense
            layers: the last axis is over outputs, the one before it over inputs, and all others count matrices.

    Returns:
        A tree of `MatrixView`, with None for a leaf that has fewer than two axes or no entries.

    Example:
        >>> import jax.numpy as jnp
        >>> view = leaf_views(jnp.ones((3, 2, 4)))
        >>> view.row_count, view.column_count, view.batch
        (4, 2, (0,))
    """

    def view(x, numbers=None):
        return matrix_view(x.shape, numbers) if x.ndim > 1 and x.size else None

    if weight_dimension_numbers is None:
        return jax.tree.map(view, tree)
    return jax.tree.map(view, tree, resolve("weight_dimension_numbers", weight_dimension_numbers, tree))


def matrix_shape(view: MatrixView) -> tuple[int, ...]:
    """Returns the shape in which a leaf is seen as matrices: axes over separate matrices, then rows, then columns."""
    return *(view.shape[axis] for axis in view.batch), view.row_count, view.column_count


def on_matrices(
    inner: optax.GradientTransformationExtraArgs, weight_dimension_numbers: Any | None
) -> optax.GradientTransformationExtraArgs:
    """Runs a transformation on the matrices of the leaves instead of on the leaves.

    Args:
        inner: The transformation. It sees trees whose leaves have rows and columns as their last axes, after the axes
            over separate matrices.
        weight_dimension_numbers: See `leaf_views`. Every leaf must be seen as matrices.

    Returns:
        A transformation with the state of `inner`. Its updates have the shapes of the leaves.
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
