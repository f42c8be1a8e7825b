"""Integers of few bits, packed into bytes."""

import functools
import math

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
        return _pack_across_bytes(codes, bits)
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
    return interleave(unpack_columns(packed, bits, dtype), size)


def unpack_columns(packed: jax.Array, bits: int, dtype: DTypeLike = jnp.uint32) -> list[jax.Array]:
    """Returns the integers that `pack` has packed, as columns, so that sums of them are not interleaved one by one.

    Args:
        packed: The result of `pack`.
        bits: Number of bits of each integer.
        dtype: Unsigned dtype of the integers. Default: uint32.

    Returns:
        Vectors. Every n-th integer stands in one of n vectors; n is 1 if whole integers fill each byte. There are zeros
        at their ends.

    Example:
        >>> [column.tolist() for column in unpack_columns(jnp.array([43, 128], jnp.uint8), 3)]
        [[1], [2], [7], [0], [0], [0], [0], [0]]
        >>> [column.tolist() for column in unpack_columns(jnp.array([18, 112], jnp.uint8), 4)]
        [[1, 2, 7, 0]]
    """
    if 8 % bits == 0:
        shifts = jnp.arange(8 - bits, -1, -bits, dtype=jnp.uint8)[None, :]
        return [(packed[:, None] >> shifts & jnp.uint8(2**bits - 1)).reshape(-1).astype(dtype)]
    width = math.lcm(bits, 8) // 8
    columns = jnp.pad(packed, (0, -packed.size % width)).reshape(-1, width).astype(_across(bits))

    def code(start):
        touching = range(start // 8, -(-(start + bits) // 8))
        parts = [_shift(columns[:, byte], start + bits - (byte + 1) * 8) for byte in touching]
        return (functools.reduce(jnp.bitwise_or, parts) & (2**bits - 1)).astype(dtype)

    return [code(start) for start in range(0, 8 * width, bits)]


def interleave(columns: list[jax.Array], size: int) -> jax.Array:
    """Returns a vector from columns like those of `unpack_columns`.

    Args:
        columns: Vectors of equal size.
        size: Size of the result.

    Returns:
        The first entries of all vectors, then the second ones, and so on.

    Example:
        >>> interleave([jnp.array([1, 4]), jnp.array([2, 5]), jnp.array([3, 0])], 5).tolist()
        [1, 2, 3, 4, 5]
    """
    return (columns[0] if len(columns) == 1 else jnp.stack(columns, axis=1).ravel())[:size]


def _pack_across_bytes(codes: jax.Array, bits: int) -> jax.Array:
    """Packs codes of which some lie in several bytes: column by column of groups that fill whole bytes."""
    each = math.lcm(bits, 8) // bits
    columns = jnp.pad(codes.astype(_across(bits)), (0, -codes.size % each)).reshape(-1, each)

    def byte(start):
        touching = range(start // bits, -(-(start + 8) // bits))
        parts = [_shift(columns[:, code], start + 8 - (code + 1) * bits) for code in touching]
        return functools.reduce(jnp.bitwise_or, parts).astype(jnp.uint8)

    packed = jnp.stack([byte(start) for start in range(0, each * bits, 8)], axis=1)
    return packed.ravel()[: -(-codes.size * bits // 8)]


def _across(bits: int) -> DTypeLike:
    """Returns an integer type for codes of so many bits that begin anywhere in a byte."""
    return jnp.uint16 if bits <= 9 else jnp.uint32


def _shift(x: jax.Array, left: int) -> jax.Array:
    """Shifts to the left, or to the right by a negative number."""
    return x << left if left >= 0 else x >> -left
