"""Infinities, which must not end in steps that look like any other."""

from typing import Any

import jax
import jax.numpy as jnp


def nan_for_infinite(tree: Any) -> Any:
    """Puts NaN in the place of infinities.

    The sign of an infinite average, and a rate over an infinite sum, are finite for ever. NaN stays NaN in both.

    Args:
        tree: arrays.

    Returns:
        The tree.

    Example:
        >>> nan_for_infinite(jnp.array([1.0, jnp.inf]))
        Array([ 1., nan], dtype=float32)
    """
    return jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), x, jnp.nan), tree)
