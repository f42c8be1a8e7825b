"""Two thin factors in place of a matrix, `left @ right^H`: their products with it, and where an iteration begins."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from optkit.core.linalg.contraction import einsum
from optkit.core.linalg.matrix_view import MatrixView, matrix_view, to_matrices
from optkit.core.matrices_and_others import kinds_of_leaves

# A column smaller than this many units of rounding, beside the largest one, is what rounding left of zero.
_ROUNDING = 16


def views_of_factored(
    method: str, tree: Any, weight_dimension_numbers: Any | None, rank_of: Callable[[MatrixView], int]
) -> Any:
    """Returns how each leaf that is replaced by factors is viewed as matrices.

    Args:
        method: The public name of the method, for messages.
        tree: Arrays.
        weight_dimension_numbers: See `kinds_of_leaves`, whose errors this function raises.
        rank_of: Returns the rank of the factors of a matrix, or 0 if it stays whole.

    Returns:
        A tree of `MatrixView`, with None for leaves that stay whole.
    """
    _, numbers = kinds_of_leaves(method, tree, None, weight_dimension_numbers, labels_name="optax.partition")

    def view(x, numbers):
        view = None if numbers is None else matrix_view(x.shape, numbers)
        return view if view is not None and rank_of(view) else None

    return jax.tree.map(view, tree, numbers)


def draw_basis(key: jax.Array, x: jax.Array, view: MatrixView, first: bool, rank: int) -> jax.Array:
    """Draws the basis of a leaf with which a power iteration begins, the same for all matrices of the leaf.

    Args:
        key: A typed key.
        x: The leaf, for its sharding and dtype.
        view: How it is viewed as matrices.
        first: Whether the iteration orthonormalizes columns along the first axis of a matrix, instead of the second.
            The basis then has as many rows as the second axis.
        rank: Number of columns.

    Returns:
        Normally distributed numbers, sharded like the side of the matrices to which they belong.
    """
    matrices = to_matrices(x, view)
    side = -1 if first else -2
    draw = jax.random.normal(key, (matrices.shape[side], rank), x.dtype)
    return shard_like_side(jnp.broadcast_to(draw, (*matrices.shape[:-2], *draw.shape)), matrices, side)


def shard_like_side(factor: jax.Array, matrices: jax.Array, side: int) -> jax.Array:
    """Shards the rows of a factor like one axis of matrices, if those are sharded over explicit mesh axes.

    Args:
        factor: A factor with a row for each entry of that axis.
        matrices: The matrices.
        side: The axis, -2 or -1.

    Returns:
        The factor.
    """
    sharding = jax.typeof(matrices).sharding
    if all(axis is None for axis in sharding.spec):
        return factor
    spec = PartitionSpec(*sharding.spec[:-2], sharding.spec[side], None)
    return jax.sharding.reshard(factor, NamedSharding(sharding.mesh, spec))


def times(matrices: jax.Array, right: jax.Array) -> jax.Array:
    """Multiplies matrices by a factor of their columns, `M Q`.

    Example:
        >>> times(jnp.array([[1.0, 2.0]]), jnp.array([[3.0], [4.0]]))
        Array([[11.]], dtype=float32)
    """
    return einsum("...nm,...mr->...nr", matrices, right, precision="highest")


def adjoint_times(matrices: jax.Array, left: jax.Array) -> jax.Array:
    """Multiplies adjoint matrices by a factor of their rows, `M^H P`.

    Example:
        >>> adjoint_times(jnp.array([[1.0, 2.0]]), jnp.array([[3.0]]))
        Array([[3.],
               [6.]], dtype=float32)
    """
    return einsum("...nm,...nr->...mr", matrices.conj(), left, precision="highest")


def product(left: jax.Array, right: jax.Array) -> jax.Array:
    """Multiplies two factors to matrices, `P Q^H`.

    Example:
        >>> product(jnp.array([[1.0], [2.0]]), jnp.array([[3.0]]))
        Array([[3.],
               [6.]], dtype=float32)
    """
    return einsum("...nr,...mr->...nm", left, right.conj(), precision="highest")


def next_basis(factor: jax.Array, last: jax.Array) -> jax.Array:
    """Returns where the next iteration begins: at the columns of a factor, each divided by its largest magnitude.

    The iteration depends on the space of the columns only, and so neither overflows nor underflows. A column that is
    zero, except for rounding, or not finite is replaced by the one with which the last iteration began.

    Args:
        factor: A factor.
        last: Where the last iteration began.

    Returns:
        The basis, in the dtype of `last`.

    Example:
        >>> next_basis(jnp.array([[4.0, 0.0], [2.0, 0.0]]), jnp.ones((2, 2)))
        Array([[1. , 1. ],
               [0.5, 1. ]], dtype=float32)
    """
    size = jnp.max(jnp.abs(factor), axis=-2, keepdims=True)
    largest = jnp.max(size, axis=-1, keepdims=True)
    # Comparisons with NaN are false.
    fresh = (size > _ROUNDING * jnp.finfo(size.dtype).eps * largest) & (largest < jnp.inf)
    return jnp.where(fresh, factor / jnp.where(fresh, size, 1), last).astype(last.dtype)
