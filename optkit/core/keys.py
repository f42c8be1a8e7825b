"""Random keys in optimizer states, as raw numbers, which every checkpoint library accepts."""

import jax
import jax.numpy as jnp

from optkit.core.types import Key


def key_data(key: Key) -> jax.Array:
    """Returns the raw data of a key, for a state to keep.

    Args:
        key: Seed of the random draws, an integer or a JAX key. The key may be typed or raw.

    Returns:
        An array of unsigned integers.

    Example:
        >>> key_data(0)
        Array([0, 0], dtype=uint32)
    """
    return jax.random.key_data(typed(key))


def split(data: jax.Array, key: Key) -> tuple[jax.Array, jax.Array]:
    """Splits a new key off the key that a state keeps.

    Args:
        data: The data in the state.
        key: The key with which the state began, for its implementation.

    Returns:
        The data for the next state, and a typed key to draw with once.

    Example:
        >>> data, fresh = split(key_data(0), 0)
        >>> data.shape, jax.random.uniform(fresh).shape
        ((2,), ())
    """
    kept, fresh = jax.random.split(jax.random.wrap_key_data(data, impl=jax.random.key_impl(typed(key))))
    return jax.random.key_data(kept), fresh


def typed(key: Key) -> jax.Array:
    """Returns a typed key, to draw with.

    Args:
        key: Seed of the random draws, an integer or a JAX key. The integer may be traced, and the key typed or raw.

    Returns:
        A JAX key.

    Example:
        >>> typed(0).dtype
        key<fry>
    """
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    if isinstance(key, jax.Array) and key.ndim:
        return jax.random.wrap_key_data(key)
    return jax.random.key(key)
