"""Subspaces along orthonormal vectors, on the left of a matrix, on its right, or on both sides.

A projection is a pair: columns of shape (m, r) on the left and rows of shape (r, n) on the right, with None on a side
without vectors. The axes over separate matrices come first. Each part is sharded like the matrix along its rows or
columns.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from optkit.core.linalg.contraction import einsum
from optkit.core.linalg.explicit_axes import replicate
from optkit.core.linalg.orthonormal import cholesky_qr
from optkit.core.linalg.svd import svd
from optkit.core.precision import widen
from optkit.core.types import DTypeLike
from optkit.memory_efficient._projector import Projector, drawn, found_from_gradients, shard, spec_like

BasisKind = Literal["svd", "approximate_svd", "random", "randperm"]
Side = Literal["std", "reverse_std", "left", "right", "full"]
Sizes = tuple[int | None, int | None]

_HIGHEST = jax.lax.Precision.HIGHEST
_OVERSAMPLING = 8
_POWER_ITERATIONS = 2


def basis_projector(kind: BasisKind, side: Side, number: Callable[[int], int]) -> Projector:
    """Projects onto orthonormal vectors.

    Args:
        kind: See `subspace_projector`.
        side: See `subspace_projector`.
        number: Returns the dimension of the subspace from that of the whole space.

    Returns:
        A `Projector`.
    """
    draws = kind in ("random", "randperm")
    sizes = functools.partial(_sizes, draws, side, number)
    if draws:
        find = drawn(lambda key, shape, dtype: _draw(kind, key, shape, dtype, sizes(shape)))
    else:
        singular_vectors = _singular_vectors if kind == "svd" else _approximate_singular_vectors
        find = found_from_gradients(lambda gradients: singular_vectors(gradients, sizes(gradients.shape)))
    return Projector(
        is_empty=lambda shape: 0 in sizes(shape),
        is_whole=lambda shape: all(r in (None, whole) for r, whole in zip(sizes(shape), shape[-2:], strict=True)),
        start=lambda matrix: _first_coordinates(matrix, sizes(matrix.shape)),
        find=find,
        down=_down,
        up=_up,
        draws=draws,
        of_vectors=True,
    )


def _sizes(draws: bool, side: Side, number: Callable[[int], int], shape: tuple[int, ...]) -> Sizes:
    """Returns the numbers of vectors on the left and on the right."""
    m, n = shape[-2:]
    if side == "full":
        return number(min(m, n)), number(min(m, n))
    most = max(m, n) if draws else min(m, n)
    on_the_right = side in ("right", "std" if m >= n else "reverse_std")
    return (None, min(number(n), most)) if on_the_right else (min(number(m), most), None)


def _first_coordinates(matrix: jax.Array, sizes: Sizes) -> Any:
    *batch, m, n = matrix.shape
    dtype = jnp.promote_types(matrix.dtype, jnp.float32)

    def coordinates(rows, columns, *axes):
        eye = jnp.broadcast_to(jnp.eye(rows, columns, dtype=dtype), (*batch, rows, columns))
        return shard(eye, spec_like(matrix, *axes))

    left, right = sizes
    return (
        None if left is None else coordinates(m, left, -2, None),
        None if right is None else coordinates(right, n, None, -1),
    )


def _singular_vectors(gradients: jax.Array, sizes: Sizes) -> Any:
    left, right = sizes
    u, _, vh = svd(replicate(gradients))
    return (None if left is None else u[..., :left]), (None if right is None else vh[..., :right, :])


def _approximate_singular_vectors(gradients: jax.Array, sizes: Sizes) -> Any:
    left, right = sizes
    largest = jnp.max(jnp.abs(gradients), axis=(-2, -1), keepdims=True, initial=0.0)
    unit = gradients / jnp.where(largest > 0, largest, 1)
    return (
        None if left is None else _leading_columns(unit, left),
        None if right is None else _leading_columns(unit.mT, right).mT,
    )


def _leading_columns(x: jax.Array, number: int) -> jax.Array:
    """Approximates the first left singular vectors by power iterations from a random sketch with a few more columns.

    It only multiplies `x` with thin matrices and factorizes matrices with short sides, so that sharded matrices stay
    sharded. Halko, Martinsson, Tropp, "Finding structure with randomness", 2009, arXiv:0909.4061, Algorithms 4.4 and
    5.1.
    """
    product = functools.partial(einsum, precision=_HIGHEST)
    m, n = x.shape[-2:]
    thin = min(number + _OVERSAMPLING, m, n)
    # The same sketch for all matrices and steps: the result hardly depends on it.
    sketch = jax.random.normal(jax.random.key(0), (n, thin), x.dtype)
    sketch = shard(jnp.broadcast_to(sketch, (*x.shape[:-2], n, thin)), spec_like(x, -1, None))

    def iterate(_, basis):
        back = cholesky_qr(product("...mn,...mk->...nk", x, basis))
        return cholesky_qr(product("...mn,...nk->...mk", x, back))

    basis = cholesky_qr(product("...mn,...nk->...mk", x, sketch))
    basis = jax.lax.fori_loop(0, _POWER_ITERATIONS, iterate, basis)
    low = product("...mk,...mn->...kn", basis, x)
    # The singular vectors of a thin matrix are the eigenvectors of its small product with itself, ascending.
    vectors = jnp.linalg.eigh(replicate(product("...kn,...ln->...kl", low, low)))[1]
    return product("...mk,...kr->...mr", basis, vectors[..., ::-1][..., :number])


def _draw(kind: BasisKind, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike, sizes: Sizes) -> Any:
    def rows(key, size, whole):
        if kind == "random":
            return jax.nn.initializers.orthogonal()(key, (size, whole), dtype)
        return jax.nn.one_hot(jax.random.permutation(key, whole)[:size], whole, dtype=dtype)

    (m, n), (left, right) = shape, sizes
    left_key, right_key = jax.random.split(key)
    return None if left is None else rows(left_key, left, m).T, None if right is None else rows(right_key, right, n)


# The highest precision, as in the authors' code: FRUGAL takes signs of the difference of a matrix and such a product.
def _down(projection: Any, x: jax.Array) -> jax.Array:
    left, right = projection
    low = widen(x)
    if left is not None:
        low = einsum("...mr,...mn->...rn", left, low, precision=_HIGHEST)
    if right is not None:
        low = einsum("...mn,...rn->...mr", low, right, precision=_HIGHEST)
    return low


def _up(projection: Any, low: jax.Array, like: jax.Array) -> jax.Array:
    del like
    left, right = projection
    if right is not None:
        low = einsum("...mr,...rn->...mn", low, right, precision=_HIGHEST)
    if left is not None:
        low = einsum("...mr,...rn->...mn", left, low, precision=_HIGHEST)
    return low
