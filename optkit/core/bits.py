"""Integers of few bits, packed into bytes."""

import jax
import jax.numpy as jnp

from optkit.core.types import DTypeLike


def pack(codes: jax.Array, bits: int) -> jax.Array:
    """Packs a vector of integers, first in the highest bits, whatever their width.

    Args:
        codes: unsigned integers below `2**bits`.
        bits: how many each one takes.

    Returns:
        `ceil(size * bits / 8)` bytes; the last one is filled with zeros.

    Example:
        >>> pack(jnp.array([1, 2, 7], jnp.uint32), 3).tolist()
        [43, 128]
    """
    shifts = jnp.arange(bits - 1, -1, -1, dtype=codes.dtype)
    return jnp.packbits((codes[:, None] >> shifts[None] & 1).astype(jnp.uint8).ravel())


def unpack(packed: jax.Array, size: int, bits: int, dtype: DTypeLike = jnp.uint32) -> jax.Array:
    """Gives the integers that `pack` has packed.

    Args:
        packed: what it gave.
        size: how many integers.
        bits: as there.
        dtype: of the integers, unsigned.

    Returns:
        A vector.

    Example:
        >>> unpack(jnp.array([43, 128], jnp.uint8), 3, 3).tolist()
        [1, 2, 7]
    """
    digits = jnp.unpackbits(packed)[: size * bits].reshape(size, bits).astype(dtype)
    return jnp.sum(digits << jnp.arange(bits - 1, -1, -1, dtype=dtype)[None], axis=1, dtype=dtype)
