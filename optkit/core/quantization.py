"""Linear quantization in blocks: arrays are stored as integers of few bits, with the range of each block."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optkit.core.bits import pack, unpack
from optkit.core.types import DTypeLike


class Quantized(NamedTuple):
    """A vector as integers of few bits.

    Attributes:
        codes: Bytes of `8 // bits` codes each, the first code in the highest bits. The last byte is filled with zeros.
        low: For each block, the number that code 0 stands for. It is at most the smallest entry of the block.
        high: For each block, the number that the largest code stands for. It is at least the largest entry of the
            block.
    """

    codes: jax.Array
    low: jax.Array
    high: jax.Array


def quantize(x: jax.Array, bits: int, block_size: int, dtype: DTypeLike | None) -> Quantized:
    """Rounds the entries of each block to one of `2**bits` equally spaced numbers between the block's extremes.

    An entry changes by at most half the distance of these numbers. A NaN or an infinity spoils its whole block.

    Args:
        x: A vector of floating-point numbers, in the precision of the arithmetic.
        bits: 1, 2, 4 or 8.
        block_size: Number of adjacent entries in a block. The last block may be shorter.
        dtype: Dtype of the ranges. They are rounded outward, so that the range contains every entry.

    Returns:
        Codes and ranges, for `dequantize`.

    Example:
        >>> quantized = quantize(jnp.array([0.0, 1.2, 15.0, 2.0, 2.0]), bits=4, block_size=3, dtype=jnp.bfloat16)
        >>> quantized.codes.tolist(), quantized.low.tolist(), quantized.high.tolist()
        ([1, 240, 0], [0.0, 2.0], [15.0, 2.0])
    """
    low = _towards(-jnp.inf, _reduce_blocks(jnp.min, x, block_size), dtype)
    high = _towards(jnp.inf, _reduce_blocks(jnp.max, x, block_size), dtype)
    distance = _distance(low, high, bits, x.dtype)

    def to_codes(x, low, distance):
        steps = (x - low) / jnp.where(distance > 0, distance, 1)
        return jnp.clip(jnp.floor(steps + 0.5), 0, 2**bits - 1).astype(jnp.uint8)

    # XLA for CPUs does either in vector registers, but not both at once.
    codes = jax.lax.optimization_barrier(_map_blocks(to_codes, x, block_size, low.astype(x.dtype), distance))
    return Quantized(codes=pack(codes, bits), low=low, high=high)


def dequantize(quantized: Quantized, size: int, bits: int, block_size: int, dtype: DTypeLike | None) -> jax.Array:
    """Returns the vector that `quantize` has rounded.

    Args:
        quantized: The result of `quantize`.
        size: Size of the vector.
        bits: See `quantize`.
        block_size: See `quantize`.
        dtype: Dtype of the vector and of the arithmetic.

    Returns:
        A vector.

    Example:
        >>> x = jnp.array([0.0, 1.2, 15.0])
        >>> dequantize(quantize(x, 4, 64, jnp.bfloat16), 3, 4, 64, jnp.float32).tolist()
        [0.0, 1.0, 15.0]
    """
    codes = unpack(quantized.codes, size, bits, jnp.uint8).astype(dtype)
    distance = _distance(quantized.low, quantized.high, bits, dtype)
    return _map_blocks(lambda x, low, d: x * d + low, codes, block_size, quantized.low.astype(dtype), distance)


def quantized_zeros(size: int, bits: int, block_size: int, dtype: DTypeLike | None) -> Quantized:
    """Returns the result of `quantize` for a vector of zeros.

    Args:
        size: Size of the vector.
        bits: See `quantize`.
        block_size: See `quantize`.
        dtype: See `quantize`.

    Returns:
        Codes and ranges, all zero.
    """
    blocks = -(-size // block_size)
    return Quantized(
        codes=jnp.zeros([-(-size * bits // 8)], jnp.uint8),
        low=jnp.zeros([blocks], dtype),
        high=jnp.zeros([blocks], dtype),
    )


def _distance(low: jax.Array, high: jax.Array, bits: int, dtype: DTypeLike | None) -> jax.Array:
    return (high.astype(dtype) - low.astype(dtype)) / (2**bits - 1)


def _towards(direction: float, x: jax.Array, dtype: DTypeLike | None) -> jax.Array:
    """Casts to a dtype, and never rounds away from `direction`."""
    rounded = x.astype(dtype)
    wrong = rounded.astype(x.dtype) > x if direction < 0 else rounded.astype(x.dtype) < x
    # JAX has no derivative of `nextafter`.
    beyond = jnp.nextafter(jax.lax.stop_gradient(rounded), jnp.asarray(direction, dtype))
    return jnp.where(wrong, beyond, rounded)


def _reduce_blocks(reduce: Any, x: jax.Array, block_size: int) -> jax.Array:
    block_size = min(block_size, max(x.size, 1))
    end = x.size // block_size * block_size
    full = reduce(x[:end].reshape(-1, block_size), axis=1)
    return jnp.concatenate([full, reduce(x[end:], keepdims=True)]) if end < x.size else full


def _map_blocks(function: Any, x: jax.Array, block_size: int, *values: jax.Array) -> jax.Array:
    """Applies an element-wise function to a vector and to values of its blocks."""
    block_size = min(block_size, max(x.size, 1))
    blocks, end = x.size // block_size, x.size // block_size * block_size
    full = function(x[:end].reshape(-1, block_size), *(value[:blocks, None] for value in values)).ravel()
    if end == x.size:
        return full
    return jnp.concatenate([full, function(x[end:], *(value[blocks:] for value in values))])
