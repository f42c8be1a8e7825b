"""Singular value decompositions that always return."""

import jax
import jax.numpy as jnp


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
    # The largest entry is infinite or NaN if any is. XLA compiles a maximum in half of the time of `jnp.all`.
    finite = jnp.isfinite(jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True, initial=0.0))
    left, values, right = jnp.linalg.svd(jnp.where(finite, x, jnp.zeros_like(x)), full_matrices=False)
    return (
        jnp.where(finite, left, jnp.nan),
        jnp.where(finite[..., 0], values, jnp.nan),
        jnp.where(finite, right, jnp.nan),
    )
