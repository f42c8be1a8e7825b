"""Singular value decompositions that come to an end."""

import jax
import jax.numpy as jnp


def svd(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Decomposes matrices by their singular values, and gives NaN for those that are not finite.

    LAPACK does not return from some matrices with an infinite entry, and gives finite vectors of others.

    Args:
        x: matrices in the last two axes.

    Returns:
        What `jax.numpy.linalg.svd` gives with `full_matrices=False`: left vectors, values, right vectors.

    Example:
        >>> left, values, right = svd(jnp.array([[3.0, 0.0], [0.0, jnp.inf]]))
        >>> values
        Array([nan, nan], dtype=float32)
    """
    finite = jnp.all(jnp.isfinite(x), axis=(-2, -1), keepdims=True)
    left, values, right = jnp.linalg.svd(jnp.where(finite, x, jnp.zeros_like(x)), full_matrices=False)
    return (
        jnp.where(finite, left, jnp.nan),
        jnp.where(finite[..., 0], values, jnp.nan),
        jnp.where(finite, right, jnp.nan),
    )
