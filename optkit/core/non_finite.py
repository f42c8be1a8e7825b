"""Infinities, which must not lead to steps that look normal."""

from typing import Any

import jax
import jax.numpy as jnp


def nan_for_infinite(tree: Any) -> Any:
    """Replaces infinities by NaN.

    The sign of an infinite average, and a rate divided by an infinite sum, stay finite forever. NaN remains NaN in
    both.

    Args:
        tree: Arrays.

    Returns:
        The tree.

    Example:
        >>> nan_for_infinite(jnp.array([1.0, jnp.inf]))
        Array([ 1., nan], dtype=float32)
    """
    return jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), x, jnp.nan), tree)
