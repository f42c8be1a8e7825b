"""Orthogonalization by the Newton-Schulz iteration: matrix products only, so that sharded matrices stay sharded."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from optkit.core.precision import widen

QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalize(
    x: jax.Array,
    *,
    coefficients: tuple[float, float, float] = QUINTIC,
    steps: int = 5,
    eps: jax.typing.ArrayLike = 1e-7,
    dtype: Any | None = None,
) -> jax.Array:
    """Moves the singular values of a matrix towards one.

    It divides by the Frobenius norm and applies an odd polynomial of degree five, `a x + b x x^T x + c (x x^T)^2 x`, a
    few times. The default coefficients are those of Muon: steep at zero, they leave the singular values of a
    well-conditioned matrix between 0.6 and 1.25 and never settle at one. The iteration inside `optax.contrib.muon` is
    not public, and raises an error on matrices that are sharded over explicit mesh axes.

    Args:
        x: a matrix, or several along leading axes, each of which has its own norm; sharded or not.
        coefficients: `a`, `b` and `c`.
        steps: how often the polynomial is applied, at least 0.
        eps: added to the norm; a matrix of zeros stays one.
        dtype: what the factors of products are rounded to; default float32, or that of `x` if it is wider. Norm and
            sums are always computed so. How precisely an accelerator multiplies, `jax.default_matmul_precision` says.

    Returns:
        The matrix, shaped and sharded like `x`, in its dtype.

    Raises:
        ValueError: if `x` has less than two axes.

    Example:
        >>> orthogonalize(jnp.array([[3.0, 0.0], [0.0, -2.0]])).round(2)
        Array([[ 1.12,  0.  ],
               [ 0.  , -0.68]], dtype=float32)

    Reference:
        Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; the iteration is that of
        Bernstein, Newhouse, "Old Optimizer, New Norm: An Anthology", 2024, arXiv:2409.20325.
    """
    if x.ndim < 2:
        raise ValueError(f"x must be a matrix, or several along leading axes, got an array of shape {x.shape}")
    wide = widen(x)
    wide = wide / (jnp.linalg.norm(wide, axis=(-2, -1), keepdims=True) + eps)
    is_tall = x.shape[-2] > x.shape[-1]
    y = wide.mT if is_tall else wide
    # On explicit mesh axes products say how they are sharded: the small square ones along their rows.
    sharding = jax.typeof(y).sharding
    same, square = None, None
    if any(axis is not None for axis in sharding.spec):
        same = sharding
        square = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[:-1], None))

    def product(left, right, out_sharding):
        # Not `matmul`, which drops leading axes of size one before it applies the sharding.
        return jnp.einsum(
            "...ij,...jk->...ik",
            left.astype(dtype or left.dtype),
            right.astype(dtype or right.dtype),
            preferred_element_type=y.dtype,
            out_sharding=out_sharding,
        )

    a, b, c = coefficients
    for _ in range(steps):
        gram = product(y, y.mT, square)
        y = a * y + product(b * gram + c * product(gram, gram, square), y, same)
    return (y.mT if is_tall else y).astype(x.dtype)
