"""Orthogonalization by the Newton-Schulz iteration: it uses matrix products only, so sharded matrices stay sharded."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from optkit.core.checks import check_integer
from optkit.core.injection import refuse_scalar
from optkit.core.precision import widen
from optkit.core.types import DTypeLike

Coefficients = tuple[float, float, float]

QUINTIC: Coefficients = (3.4445, -4.7750, 2.0315)
"""Muon's coefficients, which are steep at zero, for every step."""

QUINTIC_DION: tuple[Coefficients, ...] = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
"""One triple per step, from the code of Dion's authors (microsoft/dion)."""

POLAR_EXPRESS: tuple[Coefficients, ...] = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
"""The best polynomial for each of five steps. They expect a norm of at most 1 / 1.02."""


def newton_schulz(
    x: jax.Array,
    *,
    coefficients: Coefficients | Sequence[Coefficients] = QUINTIC,
    steps: int = 5,
    eps: jax.typing.ArrayLike = 1e-7,
    norm_factor: float = 1.0,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """Moves the singular values of a matrix towards one.

    The rule, for the coefficients a, b and c of each step, with conjugate transposes if x is complex::

        y = x / (norm_factor * ||x||_F + eps)
        y = a * y + b * (y @ y.T) @ y + c * (y @ y.T) @ (y @ y.T) @ y        (`steps` times)

    The default coefficients are those of Muon. They are steep at zero and leave the singular values of a
    well-conditioned matrix between 0.6 and 1.25; these never settle at one.

    Use it as the `orthogonalize` of an optimizer when products in bfloat16 are wanted, or matrices are nearly square.
    Avoid it for matrices that are far from square, because `gram_newton_schulz` needs fewer operations there, and when
    small singular values matter, because `polar_express` brings them close to one in fewer steps. The iteration inside
    `optax.contrib.muon` is not public, and raises an error on matrices that are sharded over explicit mesh axes.

    Args:
        x: A matrix, or several along leading axes, each with its own norm; sharded or not.
        coefficients: `a`, `b` and `c` for all steps, or a sequence of such triples, one per step, whose last one is
            repeated in further steps. Default: `(3.4445, -4.7750, 2.0315)`.
        steps: How often the polynomial is applied, at least 0. Default: 5.
        eps: Added to the norm, at least 0. A matrix of zeros stays zero. Default: 1e-7.
        norm_factor: Factor of the norm, at least 1. Default: 1.
        dtype: Dtype to which the factors of products are rounded. The norm and sums do not use it. Default: float32, or
            that of `x` if it is wider. `jax.default_matmul_precision` sets how precisely an accelerator multiplies.

    Returns:
        The matrix, with the shape, sharding and dtype of `x`.

    Raises:
        TypeError: If `x` is complex and `dtype` is not.
        ValueError: If `x` has less than two axes, or `steps` is not an integer of at least 0.

    Example:
        >>> newton_schulz(jnp.array([[3.0, 0.0], [0.0, -2.0]])).round(2)
        Array([[ 1.12,  0.  ],
               [ 0.  , -0.68]], dtype=float32)

    Reference:
        Jordan et al., 2024 (Muon), not on arXiv
        arXiv:2409.20325
    """
    _require_matrix(x)
    if dtype is not None and jnp.iscomplexobj(x) and not jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(f"dtype must be complex for complex matrices, got {jnp.dtype(dtype).name}")
    wide = widen(x)
    wide = wide / (jnp.linalg.norm(wide, axis=(-2, -1), keepdims=True) * norm_factor + eps)
    is_tall = x.shape[-2] > x.shape[-1]
    y = wide.mT if is_tall else wide
    same, square = _shardings_of_products(y, -2)

    def product(left, right, out_sharding):
        # Not `matmul`, which drops leading axes of size one before it applies the sharding.
        return jnp.einsum(
            "...ij,...jk->...ik",
            left.astype(dtype or left.dtype),
            right.astype(dtype or right.dtype),
            preferred_element_type=y.dtype,
            out_sharding=out_sharding,
        )

    for a, b, c in _triples(coefficients, steps):
        gram = product(y, y.mT.conj(), square)
        y = a * y + product(b * gram + c * product(gram, gram, square), y, same)
    return (y.mT if is_tall else y).astype(x.dtype)


def gram_newton_schulz(
    x: jax.Array,
    *,
    coefficients: Coefficients | Sequence[Coefficients] = QUINTIC,
    steps: int = 5,
    eps: jax.typing.ArrayLike = 1e-7,
    norm_factor: float = 1.0,
) -> jax.Array:
    """Takes the steps of `newton_schulz` on the products of a matrix's rows, if that needs fewer operations.

    The rule, for matrices with more columns than rows (the others are transposed)::

        y = x / (norm_factor * ||x||_F + eps)
        q = polynomial of y @ y.T that two or three steps of `newton_schulz` multiply y by
        y = q @ y        (once for the first two steps, then once for every three)

    `q` is made of products of small square matrices, so y is multiplied four times in five steps and not ten times.
    Rounding would make eigenvalues of `y @ y.T` that are near zero negative, and each step would enlarge these, so
    `y @ y.T` is computed again before the third step and every third step after it. Results differ from those of
    `newton_schulz` by rounding only. Square and nearly square matrices take the steps of `newton_schulz` itself.

    Use it for matrices that are far from square. Avoid it on TPUs, which compute in bfloat16 by default: it multiplies
    at `jax.lax.Precision.HIGH`, because small eigenvalues would be noise in bfloat16, so `newton_schulz` may be faster.

    Args:
        x: A matrix, or several along leading axes, each with its own norm; sharded or not.
        coefficients: See `newton_schulz`. Default: `(3.4445, -4.7750, 2.0315)`.
        steps: How often the polynomial is applied, at least 0. Default: 5.
        eps: Added to the norm, at least 0. A matrix of zeros stays zero. Default: 1e-7.
        norm_factor: Factor of the norm, at least 1. Default: 1.

    Returns:
        The matrix, with the shape, sharding and dtype of `x`.

    Raises:
        ValueError: If `x` has less than two axes, or `steps` is not an integer of at least 0.

    Example:
        >>> gram_newton_schulz(jnp.array([[3.0, 0.0, 0.0, 0.0], [0.0, -2.0, 0.0, 0.0]])).round(2)
        Array([[ 1.12,  0.  ,  0.  ,  0.  ],
               [ 0.  , -0.68,  0.  ,  0.  ]], dtype=float32)

    Reference:
        Zhang, Amsel, Chen, Dao, 2026, not on arXiv
    """
    _require_matrix(x)
    triples = _triples(coefficients, steps)
    runs = [triples[:2], *(triples[start : start + 3] for start in range(2, steps, 3))]
    shorter, longer = sorted(x.shape[-2:])
    multiplications = sum(2 * longer + max(4 * len(run) - 3, 0) * shorter for run in runs)
    if multiplications >= steps * (2 * longer + shorter):
        return newton_schulz(x, coefficients=coefficients, steps=steps, eps=eps, norm_factor=norm_factor)

    y = widen(x)
    is_tall = x.shape[-2] > x.shape[-1]
    same, square = _shardings_of_products(y, -1 if is_tall else -2)
    einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGH)
    product = functools.partial(einsum, "...ij,...jk->...ik", out_sharding=square)
    eye = jnp.reshape(jnp.eye(shorter, dtype=y.dtype), (1,) * (y.ndim - 2) + (shorter, shorter))

    def products_of_rows(y):
        return einsum("...ki,...kj->...ij" if is_tall else "...ik,...jk->...ij", y, y.conj(), out_sharding=square)

    def multiply(factor, y):
        return einsum("...ij,...kj->...ki" if is_tall else "...ij,...jk->...ik", factor, y, out_sharding=same)

    def factor_of(gram, run):
        factor = eye
        for index, (a, b, c) in enumerate(run):
            change = b * gram + c * product(gram, gram)
            factor = a * factor + (product(factor, change) if index else change)
            if index < len(run) - 1:
                half = a * gram + product(gram, change)
                gram = a * half + product(change, half)
        return factor

    gram = products_of_rows(y)
    # The squared norm is the trace: there is no pass over the matrix for it.
    squared_norm = jnp.sum(jnp.where(eye == 1, jnp.real(gram), 0), axis=(-2, -1), keepdims=True)
    norm = jnp.sqrt(squared_norm) * norm_factor + eps
    y = multiply(factor_of(jnp.where(jnp.isinf(norm), 0, gram / norm / norm), runs[0]) / norm, y)
    for run in runs[1:]:
        y = multiply(factor_of(products_of_rows(y), run), y)
    return y.astype(x.dtype)


def polar_express(
    x: jax.Array, *, steps: int = 5, eps: jax.typing.ArrayLike = 1e-7, dtype: DTypeLike | None = None
) -> jax.Array:
    """Moves the singular values of a matrix towards one, with the best polynomial for each step.

    The rule, with coefficients a, b and c of its own for each of the first five steps::

        y = x / (1.02 * ||x||_F + eps)
        y = a * y + b * (y @ y.T) @ y + c * (y @ y.T) @ (y @ y.T) @ y        (`steps` times)

    Use it when small singular values should come close to one soon: five steps bring all those of a 64 x 64 matrix of
    condition 100 between 0.86 and 1.14. Avoid it when an exact orthonormal matrix is needed, because the singular
    values never settle at one; take `householder_qr` or `cholesky_qr` there.

    Args:
        x: A matrix, or several along leading axes; sharded or not.
        steps: How many steps, at least 0. From the sixth on, they repeat the fifth. Default: 5.
        eps: Added to 1.02 times the norm, at least 0. A matrix of zeros stays zero. Default: 1e-7.
        dtype: Dtype to which the factors of products are rounded, see `newton_schulz`. Default: None, which takes the
            steps by `gram_newton_schulz`.

    Returns:
        The matrix, with the shape, sharding and dtype of `x`.

    Raises:
        ValueError: If `x` has less than two axes, or `steps` is not an integer of at least 0.

    Example:
        >>> jnp.diag(polar_express(jnp.array([[3.0, 0.0], [0.0, -3.0]]))).round(2)
        Array([ 1.13, -1.13], dtype=float32)

    Reference:
        arXiv:2505.16932
    """
    if dtype is not None:
        return newton_schulz(x, coefficients=POLAR_EXPRESS, steps=steps, eps=eps, norm_factor=1.02, dtype=dtype)
    return gram_newton_schulz(x, coefficients=POLAR_EXPRESS, steps=steps, eps=eps, norm_factor=1.02)


def _require_matrix(x: jax.Array) -> None:
    refuse_scalar("orthogonalize", x)
    if x.ndim < 2:
        raise ValueError(f"x must be a matrix, or several along leading axes, got an array of shape {x.shape}")


def _triples(coefficients: Coefficients | Sequence[Coefficients], steps: int) -> list[list[float]]:
    """Returns the coefficients of each step."""
    check_integer("steps", steps, 0)
    triples = np.reshape(coefficients, (-1, 3)).tolist()
    return [triples[min(step, len(triples) - 1)] for step in range(steps)]


def _shardings_of_products(y: jax.Array, axis: int) -> tuple[NamedSharding, NamedSharding] | tuple[None, None]:
    """Returns the shardings of matrices and of their square products along an axis; None without explicit mesh axes."""
    sharding = jax.typeof(y).sharding
    if all(name is None for name in sharding.spec):
        return None, None
    return sharding, NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[:-2], sharding.spec[axis], None))
