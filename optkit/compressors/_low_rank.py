"""Low-rank compression: a matrix as the product of two thin factors, one of which stays for the next compression.

Vogels, Karimireddy, Jaggi, "PowerSGD: Practical Low-Rank Gradient Compression for Distributed Optimization", 2019,
arXiv:1905.13727, Algorithm 1 on one worker.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optkit.compressors._compressor import Compressor
from optkit.core.checks import check_integer
from optkit.core.injection import refuse_arrays
from optkit.core.keys import typed
from optkit.core.linalg.explicit_axes import replicate
from optkit.core.linalg.factors import (
    adjoint_times,
    draw_basis,
    next_basis,
    product,
    shard_like_side,
    times,
    views_of_factored,
)
from optkit.core.linalg.matrix_view import MatrixView, from_matrices, to_matrices
from optkit.core.linalg.orthonormal import Orthonormalize, cholesky_qr
from optkit.core.precision import scalar_dtype, widen
from optkit.core.stacking import map_equal_shapes
from optkit.core.trees import concrete
from optkit.core.types import Key
from optkit.method import Method, Paper

__all__ = ["low_rank"]


class Factors(NamedTuple):
    """A tree whose matrices are `left @ right^H`; each part is a tree that has None for the leaves of the others.

    Attributes:
        left: An orthonormal basis of columns for each matrix, at least in float32.
        right: The product of the adjoint matrix with that basis.
        whole: The leaves that are no matrices.
    """

    left: Any
    right: Any
    whole: Any


def low_rank(
    rank: int | None = None,
    *,
    orthonormalize: Orthonormalize | None = None,
    weight_dimension_numbers: Any | None = None,
    key: Key = 0,
) -> Compressor:
    """Keeps a matrix as the product of two thin factors, found by one power iteration from where the last one ended.

    The rule for a matrix M, where Q begins at random::

        P = an orthonormal basis of the columns of M Q
        Q = M^H P
        C(M) = P Q^H

    It is a projection, so that nothing grows. After some compressions of a matrix that changes slowly, P spans its
    largest singular directions. Stacked matrices of one leaf are compressed one by one.

    Use it with `error_feedback`, for gradients of large matrices: their singular values often fall fast, and inner
    products and sums of many compressed trees are computed from the factors. For the mean over workers take
    `power_sgd`, whose factors are sums. Avoid it without error feedback, because what lies outside the factors is lost,
    and for trees of many vectors, which are sent as they are.

    Args:
        rank: Number of columns of the factors, at least 1. Default: None, which stands for 4. A matrix whose shorter
            side is not longer is sent whole.
        orthonormalize: A function that returns an orthonormal basis of the columns of stacked matrices. Default:
            `cholesky_qr`, which leaves sharded rows where they are.
        weight_dimension_numbers: Which axes of each matrix are inputs and which are outputs, as in
            `optax.contrib.muon`. All other axes of a leaf count matrices. `flax_dimension_numbers` makes it for Flax
            models, and convolutions need it. Default: all leaves of two axes are matrices, and all others are sent
            whole.
        key: Seed of the random draws, an integer or a JAX key. Default: 0. It draws the first factors. Must be equal on
            all workers.

    Returns:
        A `Compressor` to `Factors`. Its state is the factor Q of each matrix. It has no delta, because a Q that
        was kept may be orthogonal to the next matrix.

    Raises:
        ValueError: If `rank` is not a positive integer. From `init`: if dimension numbers are given and no leaf is a
            matrix; or if none are given and a leaf called `bias` or `scale` has two axes or more.

    Example:
        >>> compressor = low_rank(1)
        >>> matrix = jnp.outer(jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, -1.0]))
        >>> factors, state = compressor.compress(matrix, compressor.init(matrix))
        >>> factors.left.shape, factors.right.shape
        ((3, 1), (2, 1))
        >>> bool(jnp.allclose(compressor.decompress(factors, matrix), matrix, rtol=1e-4))
        True

    Reference:
        arXiv:1905.13727
    """
    refuse_arrays(rank=rank, weight_dimension_numbers=weight_dimension_numbers)
    rank = 4 if rank is None else rank
    check_integer("rank", rank)
    orthonormalize = cholesky_qr if orthonormalize is None else orthonormalize

    def rank_of(view):
        return rank if rank < min(view.row_count, view.column_count) else 0

    def views_of(tree):
        return views_of_factored("low_rank", tree, weight_dimension_numbers, rank_of)

    def init(params):
        leaves, structure = jax.tree.flatten(widen(concrete(params)))
        views = structure.flatten_up_to(views_of(params))
        bases = [
            None if view is None else replicate(draw_basis(jax.random.fold_in(typed(key), i), x, view, True, rank))
            for i, (x, view) in enumerate(zip(leaves, views, strict=True))
        ]
        return structure.unflatten(bases)

    def compress(tree, state):
        return _compress(tree, state, views_of(tree), orthonormalize)

    def decompress(factors, like):
        return jax.tree.map(_leaf, like, views_of(like), *factors)

    def inner_products(rows, tree):
        products = jax.tree.map(_inner_products, tree, views_of(tree), *rows)
        return sum(jax.tree.leaves(products), jnp.zeros([], scalar_dtype(tree)))

    def combine(weights, rows, like):
        def leaf(x, view, *row):
            return _leaf(x, view, *_sum_of_rows(weights, *row))

        return jax.tree.map(leaf, like, views_of(like), *rows)

    return Compressor(init, compress, decompress, inner_products, combine)


def _compress(tree: Any, bases: Any, views: Any, orthonormalize: Orthonormalize) -> tuple[Factors, Any]:
    """Takes a step of the power iteration, and returns the factors and where the next step begins."""
    matrices = jax.tree.map(to_matrices, widen(tree), views)
    left = map_equal_shapes(orthonormalize, jax.tree.map(times, matrices, bases))
    right = jax.tree.map(adjoint_times, matrices, left)
    left, right = jax.tree.map(replicate, (left, right))
    whole = jax.tree.map(lambda x, view: x if view is None else None, tree, views)
    return Factors(left, right, whole), jax.tree.map(next_basis, right, bases)


def _leaf(x: jax.Array, view: MatrixView | None, left: Any, right: Any, whole: Any) -> jax.Array:
    """Returns the leaf that was sent, in the shape, dtype and sharding of `x`."""
    if view is None:
        return whole.astype(x.dtype)
    matrices = to_matrices(x, view)
    return from_matrices(x, view, product(shard_like_side(left, matrices, -2), shard_like_side(right, matrices, -1)))


def _inner_products(x: jax.Array, view: MatrixView | None, left: Any, right: Any, whole: Any) -> jax.Array:
    """Returns the inner product of a leaf with each row."""
    if view is None:
        return jnp.sum(whole.conj() * x.astype(whole.dtype)[None], axis=range(1, whole.ndim))
    matrices = to_matrices(widen(x), view)
    # Over the longer side first: the product has the length of the shorter one.
    if matrices.shape[-2] >= matrices.shape[-1]:
        products = adjoint_times(matrices, _side_by_side(left)).conj() * _side_by_side(right)
    else:
        products = _side_by_side(left).conj() * times(matrices, _side_by_side(right))
    return jnp.sum(products.reshape(-1, len(left), left.shape[-1]), axis=(0, 2))


def _sum_of_rows(weights: jax.Array, left: Any, right: Any, whole: Any) -> tuple[Any, Any, Any]:
    """Returns the weighted sum of one leaf's rows: its factors are those of all rows side by side."""
    if left is None:
        return None, None, jnp.tensordot(weights.astype(whole.dtype), whole, 1, precision="highest")
    weighted = left * jnp.expand_dims(weights.astype(left.dtype), range(1, left.ndim))
    return _side_by_side(weighted), _side_by_side(right), None


def _side_by_side(factors: jax.Array) -> jax.Array:
    """Makes one factor of the factors along a leading axis."""
    columns = jnp.moveaxis(factors, 0, -2)
    return columns.reshape(*columns.shape[:-2], -1)


POWER_SGD = Paper(
    "PowerSGD: Practical Low-Rank Gradient Compression for Distributed Optimization",
    "Vogels, Karimireddy, Jaggi",
    2019,
    "1905.13727",
)

METHODS = (
    Method(
        name="compressors.low_rank",
        factory=low_rank,
        kind="function",
        summary="Keeps a matrix as the product of two thin factors, found by one power iteration.",
        paper=POWER_SGD,
        also_known_as=("RankK", "rank-r compression", "low-rank approximation"),
    ),
)
