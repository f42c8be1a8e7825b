"""Arithmetic in float32 at least, whatever the parameters' dtype."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax


def widen(tree: Any) -> Any:
    """Casts 16-bit floating-point leaves to float32 and leaves everything else as it is.

    Args:
        tree: arrays of any dtype, or `jax.ShapeDtypeStruct`.

    Returns:
        The same tree in float32 where it was narrower.
    """

    def cast(x):
        dtype = x.dtype
        if not jnp.issubdtype(dtype, jnp.floating) or jnp.finfo(dtype).bits >= jnp.finfo(jnp.float32).bits:
            return x
        return jax.ShapeDtypeStruct(x.shape, jnp.float32) if isinstance(x, jax.ShapeDtypeStruct) else x.astype("float32")

    return jax.tree.map(cast, tree)
