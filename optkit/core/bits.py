"""Integers of few bits, packed into bytes."""

import jax
import jax.numpy as jnp

from optkit.core.types import DTypeLike


def pack(codes: jax.Array, bits: int) -> jax.Array:
    """Packs a vector of integers into bytes, the first one in the highest bits.

    Args:
        codes: Unsigned integers below `2**bits`.
        bits: Number of bits of each integer.

    Returns:
        `ceil(size * bits / 8)` bytes. The last one is filled with zeros.

    Example:
        >>> pack(jnp.array([1, 2, 7], jnp.uint32), 3).tolist()
        [43, 128]
        >>> pack(jnp.array([1, 2, 7], jnp.uint32), 4).tolist()
        [18, 112]
    """
    if 8 % bits:
        shifts = jnp.arange(bits - 1, -1, -1, dtype=codes.dtype)
        return jnp.packbits((codes[:, None] >> shifts[None] & 1).astype(jnp.uint8).ravel())
    # Whole codes in each byte need no array of single bits.
    each = 8 // bits
    rows = jnp.pad(codes.astype(jnp.uint8), (0, -codes.size % each)).reshape(-1, each)
    packed = rows[:, 0]
    for column in range(1, each):
        packed = packed << bits | rows[:, column]
    return packed


def unpack(packed: jax.Array, size: int, bits: int, dtype: DTypeLike = jnp.uint32) -> jax.Array:
    """Returns the integers that `pack` has packed.

    Args:
        packed: The result of `pack`.
        size: Number of integers.
        bits: Number of bits of each integer.
        dtype: Unsigned dtype of the integers. Default: uint32.

    Returns:
        A vector.

    Example:
        >>> unpack(jnp.array([43, 128], jnp.uint8), 3, 3).tolist()
        [1, 2, 7]
    """
    if 8 % bits:
        digits = jnp.unpackbits(packed)[: size * bits].reshape(size, bits).astype(dtype)
        return jnp.sum(digits << jnp.arange(bits - 1, -1, -1, dtype=dtype)[None], axis=1, dtype=dtype)
    shifts = jnp.arange(8 - bits, -1, -bits, dtype=jnp.uint8)[None, :]
    return (packed[:, None] >> shifts & jnp.uint8(2**bits - 1)).reshape(-1)[:size].astype(dtype)
