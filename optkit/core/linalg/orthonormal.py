"""Orthonormal bases of the columns of matrices, by one factorization, or by products and small factorizations only.

All are computed in at least float32. None of them fails: for columns that are zero or depend on others, and for a
matrix of zeros, the basis is completed by arbitrary directions. Two bases may differ by rotations of such directions
and by signs of columns; a product with a basis and with its transpose is the same for all.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from optkit.core.injection import refuse_scalar
from optkit.core.keys import typed
from optkit.core.linalg.contraction import einsum
from optkit.core.linalg.explicit_axes import replicate, shard_like
from optkit.core.precision import widen
from optkit.core.types import AxisName, Key

Orthonormalize = Callable[[jax.Array], jax.Array]

_HIGHEST = jax.lax.Precision.HIGHEST
_MOST_PASSES = 12
# From this size on triangular matrices are inverted in halves.
_SMALL = 16


def householder_qr(x: jax.Array) -> jax.Array:
    """Returns an orthonormal basis of a matrix's columns, by Householder reflections as in LAPACK.

    Use it on one CPU, or for small matrices. Avoid it for sharded matrices and on accelerators, because the
    factorization cannot be partitioned, so every device gathers the whole matrix, and accelerators are slow at it; take
    `cholesky_qr`.

    Args:
        x: A matrix with at least as many rows as columns, or several along leading axes.

    Returns:
        A matrix with orthonormal columns, with the shape, sharding and dtype of `x`.

    Raises:
        ValueError: If `x` has fewer rows than columns, or less than two axes.

    Example:
        >>> jnp.abs(householder_qr(jnp.array([[2.0], [0.0]]))).round(2)
        Array([[1.],
               [0.]], dtype=float32)
    """
    _require_tall(x)
    basis = jnp.linalg.qr(replicate(_unit(widen(x))))[0]
    return shard_like(basis, x).astype(x.dtype)


def cholesky_qr(x: jax.Array, *, axis_name: AxisName | tuple[str, ...] | None = None) -> jax.Array:
    """Returns an orthonormal basis of a matrix's columns, by repeated Cholesky factorizations of their products.

    The rule, repeated until the columns are orthonormal to rounding, which takes two to five passes::

        x = x / norms of its columns
        x.T @ x + shift * I = L @ L.T        (shift = 0 once the columns are nearly orthonormal)
        x = x @ inverse(L.T)

    The products square the condition number of the matrix. Two passes are enough for a well-conditioned matrix; the
    shift makes the first passes of an ill-conditioned one possible. Noise of the size of rounding errors is added
    before, so that the columns are independent.

    Use it for sharded matrices and on accelerators: rows stay sharded, and it needs only matrix products and
    factorizations of `columns x columns` matrices. Avoid it for small matrices on one CPU, where one factorization
    (`householder_qr`) does the same without repetition.

    Args:
        x: A matrix with at least as many rows as columns, or several along leading axes.
        axis_name: Name of the axis over workers. Inside `jax.shard_map`, it names the mesh axis, or a tuple of axes,
            over which rows are spread, and `x` is the part of this device. Default: None, for rows not spread so.

    Returns:
        A matrix with orthonormal columns, with the shape, sharding and dtype of `x`.

    Raises:
        ValueError: If `x` has fewer rows than columns, or less than two axes.

    Example:
        >>> jnp.abs(cholesky_qr(jnp.array([[2.0], [0.0]]))).round(2)
        Array([[1.],
               [0.]], dtype=float32)

    Reference:
        arXiv:1809.11085
    """
    if axis_name is None:
        _require_tall(x)
    return _cholesky_basis(widen(x), axis_name).astype(x.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _cholesky_basis(x: jax.Array, axis_name: AxisName | tuple[str, ...] | None) -> jax.Array:
    return _cholesky_passes(_independent(x, axis_name), axis_name)[0]


@_cholesky_basis.defjvp
def _derivative_of_cholesky_basis(axis_name, primals, tangents):
    """Returns the derivative of the factorization `x = basis @ triangle`; the number of passes has no derivative."""
    (x,), (change,) = primals, tangents
    basis = _cholesky_basis(x, axis_name)
    triangle = _sum(einsum("...mr,...ms->...rs", basis.conj(), x, precision=_HIGHEST), axis_name)
    # Columns that depend on others have directions of no meaning, which do not change.
    change = einsum("...mr,...rs->...ms", change, jnp.linalg.pinv(triangle), precision=_HIGHEST)
    inner = _sum(einsum("...mr,...ms->...rs", basis.conj(), change, precision=_HIGHEST), axis_name)
    below = jnp.tril(inner, -1)
    rotation = below - below.mT.conj()
    if jnp.iscomplexobj(x):
        rotation = rotation + 1j * inner.imag * jnp.eye(inner.shape[-1], dtype=inner.real.dtype)
    return basis, change + einsum("...mr,...rs->...ms", basis, rotation - inner, precision=_HIGHEST)


def randomized_cholesky_qr(x: jax.Array, *, key: Key = 0, oversampling: float = 1.25) -> jax.Array:
    """Returns an orthonormal basis of a matrix's columns, by a factorization of a random sketch and one of Cholesky's.

    The rule, for a matrix s of normally distributed numbers with few rows::

        s @ x = q @ r                      (QR factorization)
        x = cholesky_qr(x @ inverse(r))    (one pass)

    The first line makes the columns nearly orthonormal, whatever their condition is. Rows stay sharded, as in
    `cholesky_qr`.

    Use it when matrices are ill-conditioned and have many times more rows than columns. Avoid it otherwise, because
    drawing the sketch takes longer than it saves. For columns that are dependent except for rounding it loses the last
    two digits, which `cholesky_qr` keeps.

    Args:
        x: A matrix with at least as many rows as columns, or several along leading axes, which share one sketch.
        key: Seed of the random draws, an integer or a JAX key. Default: 0. Equal sketches in all calls do no harm,
            because the result does not depend on the sketch, except for rounding.
        oversampling: Rows of the sketch divided by columns of the matrix, at least 1; the rows are rounded up to a
            multiple of 128. If these are not fewer than the rows of the matrix, there is no sketch. Default: 1.25.

    Returns:
        A matrix with orthonormal columns, with the shape, sharding and dtype of `x`.

    Raises:
        ValueError: If `x` has fewer rows than columns, or less than two axes.

    Example:
        >>> jnp.abs(randomized_cholesky_qr(jnp.array([[2.0], [0.0]]))).round(2)
        Array([[1.],
               [0.]], dtype=float32)

    Reference:
        arXiv:2406.11751
        arXiv:2504.05295
    """
    _require_tall(x)
    rows, columns = x.shape[-2:]
    size = 128 * math.ceil(oversampling * columns / 128)
    if size >= rows:
        return cholesky_qr(x)
    y = _independent(widen(x))
    sketch = _shard_rows(jax.random.normal(typed(key), (rows, size), y.dtype) / math.sqrt(size), y)
    factor = jnp.linalg.qr(replicate(einsum("ms,...mr->...sr", sketch, y, precision=_HIGHEST)), mode="r")
    preconditioned = einsum("...mr,...sr->...ms", y, _inverse_of_lower(_bounded_below(factor).mT), precision=_HIGHEST)
    return _cholesky_passes(preconditioned)[0].astype(x.dtype)


def _require_tall(x: jax.Array) -> None:
    refuse_scalar("orthonormalize", x)
    if x.ndim < 2 or x.shape[-2] < x.shape[-1]:
        raise ValueError(f"x must be a matrix with at least as many rows as columns, got an array of shape {x.shape}")


def _sum(x: jax.Array, axis_name: AxisName | tuple[str, ...] | None) -> jax.Array:
    return jax.lax.psum(x, axis_name) if axis_name else x


def _of_rank(matrix: jax.Array, rank: int) -> jax.Array:
    """Adds leading axes of size one, which JAX can be told not to add by itself."""
    return jnp.reshape(matrix, (1,) * (rank - matrix.ndim) + matrix.shape)


def _squares(x: jax.Array) -> jax.Array:
    """Returns the squared absolute values."""
    return jnp.real(x * x.conj())


def _unit(x: jax.Array, axis_name: AxisName | tuple[str, ...] | None = None) -> jax.Array:
    """Divides by the Frobenius norm, without overflow or underflow; zero stays zero."""
    largest = jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True, initial=0.0)
    largest = jax.lax.pmax(largest, axis_name) if axis_name else largest
    scaled = x / jnp.where(largest > 0, largest, 1)
    norm = jnp.sqrt(_sum(jnp.sum(_squares(scaled), axis=(-2, -1), keepdims=True), axis_name))
    return scaled / jnp.where(norm > 0, norm, 1)


def _shard_rows(x: jax.Array, like: jax.Array) -> jax.Array:
    """Shards rows like those of matrices on explicit mesh axes."""
    sharding = jax.typeof(like).sharding
    if all(axis is None for axis in sharding.spec):
        return x
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, PartitionSpec(sharding.spec[-2], None)))


def _independent(x: jax.Array, axis_name: AxisName | tuple[str, ...] | None = None) -> jax.Array:
    """Adds noise of the size of rounding to a matrix of norm one."""
    count = x.shape[-2]
    all_rows = count * jax.lax.axis_size(axis_name) if axis_name else count
    rows, columns = (
        jax.random.uniform(key, (size,), x.real.dtype, 32, 64)
        for key, size in zip(jax.random.split(jax.random.key(0)), (all_rows, x.shape[-1]), strict=True)
    )
    if axis_name:
        rows = jax.lax.dynamic_slice_in_dim(rows, count * jax.lax.axis_index(axis_name), count)
    # The fractions of products serve as well as one draw per entry, which would take longer than everything else.
    products = rows[:, None] * columns[None, :]
    noise = (products - jnp.floor(products) - 0.5) * math.sqrt(12 / max(all_rows, 1))
    return _unit(x, axis_name) + jnp.finfo(x.dtype).eps * _of_rank(noise, x.ndim)


def _cholesky_passes(x: jax.Array, axis_name: AxisName | tuple[str, ...] | None = None) -> tuple[jax.Array, jax.Array]:
    """Makes independent columns orthonormal, and returns also in how many passes."""
    eye = _of_rank(jnp.eye(x.shape[-1], dtype=x.dtype), x.ndim)
    # Above the rounding of products and of their factorization, whose smallest eigenvalues may be negative.
    least_shift = 10 * math.sqrt(max(x.shape[-1], 1)) * jnp.finfo(x.dtype).eps

    def unfinished(carry):
        _, _, far, passes = carry
        return jnp.any(far) & (passes < _MOST_PASSES)

    def one_pass(carry):
        columns, shift, _, passes = carry
        products = replicate(_lower_products(columns, axis_name))
        scale = jax.lax.rsqrt(jnp.real(jnp.diagonal(products, axis1=-2, axis2=-1)))[..., None]
        cosines = jnp.tril(products * scale * scale.mT)
        # The sum of squares bounds eigenvalues: now they are at least one half, and this pass is the last one.
        far = jnp.sum(_squares(cosines - eye), axis=(-2, -1), keepdims=True) >= 1 / 128
        factor = jnp.linalg.cholesky(cosines + jnp.where(far, shift, 0) * eye, symmetrize_input=False)
        failed = jnp.any(jnp.isnan(factor), axis=(-2, -1), keepdims=True)
        inverse = jnp.where(failed, eye, _inverse_of_lower(factor) * scale.mT)
        columns = einsum("...rs,...sm->...rm", inverse, columns, precision=_HIGHEST)
        return columns, jnp.where(failed, 100 * shift, shift), far, passes + 1

    # One number per matrix, which varies over the same mesh axes as the products do.
    like = _sum(replicate(jnp.sum(jnp.real(x), axis=(-2, -1), keepdims=True)), axis_name)
    # Each column is contiguous, because products of columns are fastest so.
    start = x.mT, jnp.full_like(like, least_shift), jnp.full_like(like, fill_value=True, dtype=bool), jnp.array(0)
    columns, _, _, passes = jax.lax.while_loop(unfinished, one_pass, start)
    return columns.mT, passes


def _lower_products(columns: jax.Array, axis_name: AxisName | tuple[str, ...] | None = None) -> jax.Array:
    """Multiplies columns with each other, but leaves out most of the symmetric half, so that less is sent."""
    count = columns.shape[-2]
    size = max(math.ceil(count / 4), 16)
    blocks = []
    for start in range(0, count, size):
        end = min(start + size, count)
        rows, others = columns[..., start:end, :], columns[..., :end, :].conj()
        block = einsum("...rm,...sm->...rs", rows, others, precision=_HIGHEST)
        blocks.append(jnp.pad(_sum(block, axis_name), [(0, 0)] * (block.ndim - 1) + [(0, count - end)]))
    return jnp.concatenate(blocks, axis=-2)


def _bounded_below(factor: jax.Array) -> jax.Array:
    """Keeps the diagonal of a triangular factor away from zero."""
    diagonal = jnp.diagonal(factor, axis1=-2, axis2=-1)
    least = jnp.finfo(factor.dtype).eps * jnp.max(jnp.abs(diagonal), axis=-1, keepdims=True, initial=0.0)
    bounded = jnp.where(jnp.abs(diagonal) < least, least, diagonal)
    eye = _of_rank(jnp.eye(factor.shape[-1], dtype=factor.dtype), factor.ndim)
    return factor + (bounded - diagonal)[..., None] * eye


def _inverse_of_lower(factor: jax.Array) -> jax.Array:
    """Inverts lower triangular matrices by products of their blocks.

    On accelerators a solver goes column by column, and LAPACK's waits for threads on a CPU that has other work.
    """
    size = factor.shape[-1]
    if size <= _SMALL:
        return _inverse_of_small(factor)
    half = math.ceil(size / 2)
    # The halves of an odd size overlap: so they are of one shape, and inverted in one call.
    halves = jnp.stack([factor[..., :half, :half], factor[..., size - half :, size - half :]])
    first, second = _inverse_of_lower(halves)
    second = second[..., 2 * half - size :, 2 * half - size :]
    below = -_multiply(_multiply(second, factor[..., half:, :half]), first)
    above = jnp.pad(first, [(0, 0)] * (factor.ndim - 1) + [(0, size - half)])
    return jnp.concatenate([above, jnp.concatenate([below, second], axis=-1)], axis=-2)


def _inverse_of_small(factor: jax.Array) -> jax.Array:
    """Inverts lower triangular matrices by blocks along the diagonal that double in size."""
    size = factor.shape[-1]
    index, width = np.arange(size), 1
    inverse = _of_rank(jnp.eye(size, dtype=factor.dtype), factor.ndim)
    inverse /= jnp.diagonal(factor, axis1=-2, axis2=-1)[..., None]
    while width < size:
        block = index // width
        between = (block[:, None] == block + 1) & (block % 2 == 0)
        inverse -= _multiply(_multiply(inverse, jnp.where(between, factor, 0)), inverse)
        width *= 2
    return inverse


def _multiply(left: jax.Array, right: jax.Array) -> jax.Array:
    return einsum("...ij,...jk->...ik", left, right, precision=_HIGHEST)
