"""Singular value decompositions that always return."""

import jax
import jax.numpy as jnp

from optkit.core.non_finite import finite_along


def svd(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Decomposes matrices by their singular values, and returns NaN for those that are not finite.

    LAPACK never returns for some matrices with an infinite entry, and returns finite vectors for others.

    Args:
        x: Matrices in the last two axes.

    Returns:
        The result of `jax.numpy.linalg.svd` with `full_matrices=False`: left vectors, values, and right vectors.

    Example:
        >>> left, values, right = svd(jnp.array([[3.0, 0.0], [0.0, jnp.inf]]))
        >>> values
        Array([nan, nan], dtype=float32)
    """
    finite = finite_along(x, (-2, -1), keepdims=True)
    left, values, right = jnp.linalg.svd(jnp.where(finite, x, jnp.zeros_like(x)), full_matrices=False)
    return (
        jnp.where(finite, left, jnp.nan),
        jnp.where(finite[..., 0], values, jnp.nan),
        jnp.where(finite, right, jnp.nan),
    )
