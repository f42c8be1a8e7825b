"""The two forms in which MicroAdam keeps what its window leaves out: in few bits, or whole."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from optkit.core.checks import check_option
from optkit.core.linalg.explicit_axes import replicate, shard_like
from optkit.core.precision import widen
from optkit.core.quantization import Quantized, dequantize, quantize, quantized_zeros
from optkit.core.types import DTypeLike

Bits = Literal[1, 2, 4, 8, "whole"]


class Unquantized(NamedTuple):
    """Errors without quantization.

    Attributes:
        errors: The errors, at least in float32, with the shapes of the parameters and, on explicit mesh axes, their
            shardings.
    """

    errors: Any


class ErrorCodec(NamedTuple):
    """Functions that encode and decode flattened errors.

    Attributes:
        kind: Type of the encoded error, `Quantized` or `Unquantized`.
        zeros: Returns the encoded error of a parameter whose error is zero.
        encode: Returns the encoded error, from an error and its gradient.
        decode: Returns the flattened error, from an encoded error and a flattened gradient.
    """

    kind: Any
    zeros: Callable[[jax.Array], Any]
    encode: Callable[[jax.Array, jax.Array], Any]
    decode: Callable[[Any, jax.Array], jax.Array]


def error_codec(bits: Bits, block_size: int, dtype: DTypeLike | None) -> ErrorCodec:
    """Makes the functions that encode and decode errors.

    Args:
        bits: See `scale_by_micro_adam`.
        block_size: Number of neighbouring entries whose errors share a range.
        dtype: Dtype of the ranges.

    Returns:
        The codec.

    Raises:
        ValueError: If `bits` is none of its options.
    """
    check_option("bits", bits, Bits)
    if bits == "whole":
        return ErrorCodec(
            kind=Unquantized,
            zeros=lambda param: Unquantized(jnp.zeros_like(param, widen(param).dtype)),
            encode=lambda error, like: Unquantized(shard_like(error.reshape(like.shape), like)),
            decode=lambda kept, like: replicate(kept.errors).ravel().astype(like.dtype),
        )
    return ErrorCodec(
        kind=Quantized,
        zeros=lambda param: quantized_zeros(param.size, bits, block_size, dtype),
        encode=lambda error, _: quantize(error, bits, block_size, dtype),
        decode=lambda kept, like: dequantize(kept, like.size, bits, block_size, like.dtype),
    )
