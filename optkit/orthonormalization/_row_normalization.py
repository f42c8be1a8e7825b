"""Divides the rows of an update by their usual size, as NorMuon does."""

import jax
import jax.numpy as jnp

from optkit.core.linalg.matrix_view import MatrixView, to_matrices
from optkit.core.precision import widen
from optkit.core.trees import concrete


def columns_axis(view: MatrixView) -> int:
    """Returns which of the last two axes of the result of `to_matrices` counts the columns."""
    return -1 if view.rows_first else -2


def zero_second_moments(x: jax.Array, view: MatrixView | None) -> jax.Array | None:
    """Returns one zero for each row of a leaf's matrices, sharded like the rows.

    Args:
        x: The leaf.
        view: How the leaf is seen as matrices; None for a leaf without entries.

    Returns:
        An array with the axes over separate matrices and one axis over rows, in at least float32; None without a view.

    Example:
        >>> from optkit.core.linalg.matrix_view import matrix_view
        >>> kernel = jnp.ones((4, 6))
        >>> zero_second_moments(kernel, matrix_view(kernel.shape)).shape
        (6,)
    """
    if view is None:
        return None
    return jnp.sum(jnp.real(jnp.zeros_like(widen(to_matrices(concrete(x), view)))), axis=columns_axis(view))


def divide_by_row_sizes(
    matrices: jax.Array,
    second_moments: jax.Array,
    axis: int,
    selected: jax.Array | bool = True,
    *,
    b2: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
) -> tuple[jax.Array, jax.Array]:
    """Averages the mean squares of rows over the steps, and divides the rows by the square roots of the averages.

    Args:
        matrices: Updates, one or several along leading axes, in at least float32.
        second_moments: The averages so far, without `axis`.
        axis: The axis over columns.
        selected: Rows whose average moves, with an axis of size one over columns. Default: all.
        b2: Decay rate of the averages.
        eps: Added to the square roots.

    Returns:
        The quotients and the new averages.

    Example:
        >>> quotients, averages = divide_by_row_sizes(jnp.array([[2.0], [6.0]]), jnp.zeros(2), -1, b2=0.0, eps=0.0)
        >>> quotients.tolist(), averages.tolist()
        ([[1.0], [1.0]], [4.0, 36.0])
    """
    before = jnp.expand_dims(second_moments, axis)
    moved = b2 * before + (1 - b2) * jnp.mean(jnp.real(matrices * matrices.conj()), axis=axis, keepdims=True)
    averages = jnp.where(selected, moved, before)
    return matrices / (jnp.sqrt(averages) + eps), jnp.squeeze(averages, axis)


def frobenius_norm(matrices: jax.Array) -> jax.Array:
    """Returns the Frobenius norm of each matrix, with two axes of size one."""
    return jnp.linalg.norm(matrices, axis=(-2, -1), keepdims=True)


def with_norm(matrices: jax.Array, norm: jax.typing.ArrayLike, eps: jax.typing.ArrayLike) -> jax.Array:
    """Scales each matrix to a Frobenius norm; a matrix smaller than `eps` ends below it.

    Example:
        >>> with_norm(jnp.array([[3.0, 4.0]]), 10.0, 1e-8).tolist()
        [[6.0, 8.0]]
    """
    return matrices * (norm / jnp.maximum(frobenius_norm(matrices), eps))
