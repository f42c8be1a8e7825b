"""Orthonormal bases of the columns of matrices: one factorization, or products and small factorizations only.

All are computed in float32 at least. None breaks down: columns that are zero, or depend on others, are completed by
directions of no meaning, and so is a matrix of zeros. Bases differ by rotations of such directions, and of signs of
columns; what is multiplied by a basis and by its transpose is the same for all.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jax.sharding import NamedSharding, PartitionSpec

from optkit.core.contraction import einsum
from optkit.core.explicit_axes import replicate, shard_like
from optkit.core.precision import widen

Orthonormalize = Callable[[jax.Array], jax.Array]

_HIGHEST = jax.lax.Precision.HIGHEST
_MOST_PASSES = 12


def householder_qr(x: jax.Array) -> jax.Array:
    """Gives an orthonormal basis of a matrix's columns by Householder reflections, as LAPACK does.

    The factorization cannot be partitioned: a matrix whose rows are sharded is gathered on every device. Accelerators
    take long for it. See `cholesky_qr`.

    Args:
        x: a matrix with at least as many rows as columns, or several along leading axes.

    Returns:
        A matrix with orthonormal columns, shaped and sharded like `x`, in its dtype.

    Raises:
        ValueError: if `x` has fewer rows than columns, or less than two axes.

    Example:
        >>> jnp.abs(householder_qr(jnp.array([[2.0], [0.0]]))).round(2)
        Array([[1.],
               [0.]], dtype=float32)
    """
    _require_tall(x)
    basis = jnp.linalg.qr(replicate(_unit(widen(x))))[0]
    return shard_like(basis, x).astype(x.dtype)


def cholesky_qr(x: jax.Array) -> jax.Array:
    """Gives an orthonormal basis of a matrix's columns by Cholesky factorizations of their products, repeated.

    One pass multiplies by the inverse of the Cholesky factor of `x^T x`. It squares the matrix's condition number: two
    passes do for a well-conditioned matrix, the first ones of an ill-conditioned one are shifted, and they are repeated
    until the columns are orthonormal to rounding, two to five times. Noise of the size of rounding is added first, so
    that columns are independent. There are matrix products and factorizations of `columns x columns` only: rows stay
    sharded, and accelerators are fast at it.

    Args:
        x: a matrix with at least as many rows as columns, or several along leading axes.

    Returns:
        A matrix with orthonormal columns, shaped and sharded like `x`, in its dtype.

    Raises:
        ValueError: if `x` has fewer rows than columns, or less than two axes.

    Example:
        >>> jnp.abs(cholesky_qr(jnp.array([[2.0], [0.0]]))).round(2)
        Array([[1.],
               [0.]], dtype=float32)

    Reference:
        Fukaya, Kannan, Nakatsukasa, Yamamoto, Yanagisawa, "Shifted CholeskyQR for computing the QR factorization of
        ill-conditioned matrices", 2018, arXiv:1809.11085.
    """
    _require_tall(x)
    return _cholesky_passes(_independent(widen(x))).astype(x.dtype)


def randomized_cholesky_qr(x: jax.Array, *, key: int | jax.Array = 0, oversampling: float = 1.25) -> jax.Array:
    """Gives an orthonormal basis of a matrix's columns by the factorization of a sketch and one of Cholesky's.

    The triangular factor of `sketch @ x`, which has few rows, brings the columns near orthonormal whatever their
    condition; one pass of `cholesky_qr` does the rest. Rows stay sharded as there. Worth it where matrices are
    ill-conditioned and many times as high as they are wide; otherwise drawing the sketch takes longer than it saves.

    Args:
        x: a matrix with at least as many rows as columns, or several along leading axes, which share a sketch.
        key: an integer seed or a JAX key. The same sketch in every call does no harm: the result does not depend on it,
            but for rounding.
        oversampling: rows of the sketch over columns of the matrix, at least 1, rounded up to a multiple of 128. Where
            that is not less than the matrix's rows, there is no sketch.

    Returns:
        A matrix with orthonormal columns, shaped and sharded like `x`, in its dtype.

    Raises:
        ValueError: if `x` has fewer rows than columns, or less than two axes.

    Example:
        >>> jnp.abs(randomized_cholesky_qr(jnp.array([[2.0], [0.0]]))).round(2)
        Array([[1.],
               [0.]], dtype=float32)

    Reference:
        Garrison, Ipsen, "A randomized preconditioned Cholesky-QR algorithm", 2024, arXiv:2406.11751; sizes from Ahn et
        al., "Dion: Distributed Orthonormalized Updates", 2025, arXiv:2504.05295.
    """
    _require_tall(x)
    rows, columns = x.shape[-2:]
    size = 128 * math.ceil(oversampling * columns / 128)
    if size >= rows:
        return cholesky_qr(x)
    y = _independent(widen(x))
    key = jax.random.key(key) if isinstance(key, int) else key
    sketch = _shard_rows(jax.random.normal(key, (rows, size), y.dtype) / math.sqrt(size), y)
    factor = jnp.linalg.qr(replicate(einsum("ms,...mr->...sr", sketch, y, precision=_HIGHEST)), mode="r")
    preconditioned = einsum("...mr,...rs->...ms", y, _inverse(_bounded_below(factor)), precision=_HIGHEST)
    return _cholesky_passes(preconditioned).astype(x.dtype)


def _require_tall(x: jax.Array) -> None:
    if x.ndim < 2 or x.shape[-2] < x.shape[-1]:
        raise ValueError(f"x must be a matrix with at least as many rows as columns, got an array of shape {x.shape}")


def _unit(x: jax.Array) -> jax.Array:
    """Divides by the Frobenius norm, without overflow or underflow; zero stays zero."""
    largest = jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True, initial=0.0)
    scaled = x / jnp.where(largest > 0, largest, 1)
    norm = jnp.linalg.norm(scaled, axis=(-2, -1), keepdims=True)
    return scaled / jnp.where(norm > 0, norm, 1)


def _shard_rows(x: jax.Array, like: jax.Array) -> jax.Array:
    """Shards rows like those of matrices on explicit mesh axes."""
    sharding = jax.typeof(like).sharding
    if all(axis is None for axis in sharding.spec):
        return x
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, PartitionSpec(sharding.spec[-2], None)))


def _independent(x: jax.Array) -> jax.Array:
    """Adds noise of the size of rounding to a matrix of norm one."""
    noise = jax.random.normal(jax.random.key(0), x.shape[-2:], x.dtype) / math.sqrt(max(x.shape[-2], 1))
    return _unit(x) + jnp.finfo(x.dtype).eps * noise


def _cholesky_passes(y: jax.Array) -> jax.Array:
    """Makes independent columns orthonormal."""
    eps = jnp.finfo(y.dtype).eps
    eye = jnp.eye(y.shape[-1], dtype=y.dtype)

    def gram_and_deviation(y):
        gram = replicate(einsum("...mr,...ms->...rs", y, y, precision=_HIGHEST))
        return gram, jnp.max(jnp.abs(gram - eye), axis=(-2, -1), keepdims=True, initial=0.0)

    def unfinished(carry):
        _, _, deviation, _, passes = carry
        return jnp.any(deviation > 50 * eps) & (passes < _MOST_PASSES)

    def one_pass(carry):
        y, gram, deviation, shift, passes = carry
        trace = jnp.trace(gram, axis1=-2, axis2=-1)[..., None, None]
        factor = jnp.linalg.cholesky(gram + jnp.where(deviation < 0.5, 0, shift * trace) * eye, symmetrize_input=False)
        failed = jnp.any(jnp.isnan(factor), axis=(-2, -1), keepdims=True)
        inverse = jnp.where(failed, eye, _inverse(factor.mT).mT)
        y = einsum("...mr,...sr->...ms", y, inverse, precision=_HIGHEST)
        return y, *gram_and_deviation(y), jnp.where(failed, 100 * shift, shift), passes + 1

    gram, deviation = gram_and_deviation(y)
    # Above the rounding of the product and of its factorization, whose smallest eigenvalues may be negative.
    shift = jnp.full_like(deviation, 10 * eps)
    return jax.lax.while_loop(unfinished, one_pass, (y, gram, deviation, shift, 0))[0]


def _bounded_below(factor: jax.Array) -> jax.Array:
    """Keeps the diagonal of a triangular factor away from zero."""
    diagonal = jnp.diagonal(factor, axis1=-2, axis2=-1)
    least = jnp.finfo(factor.dtype).eps * jnp.max(jnp.abs(diagonal), axis=-1, keepdims=True, initial=0.0)
    bounded = jnp.where(jnp.abs(diagonal) < least, least, diagonal)
    return factor + (bounded - diagonal)[..., None] * jnp.eye(factor.shape[-1], dtype=factor.dtype)


def _inverse(factor: jax.Array) -> jax.Array:
    """Inverts upper triangular matrices."""
    return solve_triangular(factor, jnp.broadcast_to(jnp.eye(factor.shape[-1], dtype=factor.dtype), factor.shape))
