"""Natural compression: entries are rounded at random to powers of two.

Horváth et al., "Natural Compression for Distributed Deep Learning", 2019, arXiv:1905.10988.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optkit.compressors._compressor import Compressor, weigh
from optkit.compressors._leafwise import Codes, Rule, code_rule, combine_packed, draw_uniform, leafwise, shares_of_norm
from optkit.core.bits import pack, unpack
from optkit.core.checks import check_integer, check_range
from optkit.core.precision import widen
from optkit.core.types import AxisName, DTypeLike, Key
from optkit.method import Method, Paper

__all__ = ["natural", "natural_dithering"]


def natural_rule() -> Rule:
    """Makes the rule of `natural`; it draws one uniform number for each entry."""

    def encode(x, uniform):
        x = widen(x)
        wire, mantissa_bits, exponents = _layout(x.dtype)
        number = jax.lax.bitcast_convert_type(x, wire)
        past_power = (number & (2**mantissa_bits - 1)).astype(x.dtype) / 2**mantissa_bits
        exponent = number >> mantissa_bits & (exponents - 1)
        raised = jnp.minimum(exponent + (uniform + past_power >= 1).astype(wire), exponents - 1)
        code = jnp.where(x < 0, exponents, 0).astype(wire) | jnp.where(exponent > 0, raised, 0)
        return pack(code.astype(jnp.uint16), exponents.bit_length())

    def value(code, dtype):
        wire, mantissa_bits, _ = _layout(dtype)
        return jax.lax.bitcast_convert_type(code.astype(wire) << mantissa_bits, dtype)

    def decode(sent, size, dtype):
        wide = widen(jnp.zeros([], dtype)).dtype
        bits = _layout(wide)[2].bit_length()
        return value(unpack(sent, size, bits, jnp.uint16), wide).astype(dtype)

    def combine(weights, rows, size, dtype):
        bits = _layout(dtype)[2].bit_length()
        return combine_packed(weights, rows, size, bits, lambda weight, code: weigh(weight, value(code, dtype)))

    return Rule(encode, decode, omega=lambda _: 1 / 8, draw=draw_uniform, combine=combine)


def natural_dithering_rule(levels: int, order: float) -> Rule:
    """Makes the rule of `natural_dithering`; it draws two uniform numbers for each entry, of shape (2, size).

    The first one rounds to `2**(levels - 1)` equal parts of the norm, the second one rounds the number of parts to a
    power of two.
    """
    check_integer("levels", levels)
    check_range("levels", levels, 1, 23)
    check_range("order", order, 1.0)
    bits = (2 * levels).bit_length()

    def encode(x, uniform):
        x = widen(x)
        norm, shares = shares_of_norm(x, order)
        part = jnp.minimum(jnp.floor(2 ** (levels - 1) * shares + uniform[0]), 2 ** (levels - 1))
        half, exponent = jnp.frexp(part)  # in [1/2, 1), and one more than that of the power below
        level = exponent + jnp.floor(uniform[1] + (2 * half - 1)).astype(exponent.dtype)
        level = jnp.where(part > 0, level, 0)
        return Codes(pack((jnp.where(x < 0, -level, level) + levels).astype(jnp.uint8), bits), norm)

    def value(code, scale):
        powers = 2.0 ** np.arange(1 - levels, 1)
        return jnp.asarray(np.concatenate([-powers[::-1], [0.0], powers]), scale.dtype)[code] * scale

    def draw(key, size, dtype):
        return jax.random.uniform(key, (2, size), dtype)

    def omega(size):
        rest = size ** (1 / min(order, 2)) * 2.0 ** (1 - levels)
        return 1 / 8 + rest * min(1, rest)

    return code_rule(encode, bits, value, omega=omega, draw=draw)


def natural(*, key: Key, axis_name: AxisName | None = None) -> Compressor:
    """Rounds each entry at random to one of the two powers of two around it, so that it is unbiased.

    The rule, where `p = 2^floor(log2(|x|))` is the power of two below an entry::

        C(x) = sign(x) * 2 * p    (with probability |x| / p - 1)
        C(x) = sign(x) * p        (otherwise)
        C(0) = 0

    Use it when a method needs an unbiased compressor with very little noise. Avoid it when fewer bits must be sent: an
    entry takes 9 bits, its sign and exponent (12 bits in double precision). Subnormal numbers become zero, and NaN
    becomes infinite.

    Args:
        key: Seed of the random draws, an integer or a JAX key.
        axis_name: Name of the axis over workers. With it, each worker draws for itself. Default: None, where all
            workers draw the same.

    Returns:
        A `Compressor` with omega 1/8.

    Example:
        >>> import jax.numpy as jnp
        >>> compressor = natural(key=0)
        >>> x = jnp.array([4.0, -0.25, 0.0])
        >>> compressor.decompress(compressor.compress(x, compressor.init(x))[0], x).tolist()
        [4.0, -0.25, 0.0]
    """
    return leafwise(natural_rule(), key, axis_name, real="natural")


def natural_dithering(
    levels: int = 8, order: float = math.inf, *, key: Key, axis_name: AxisName | None = None
) -> Compressor:
    """Rounds each entry at random to zero or to the leaf's norm divided by a power of two, so that it is unbiased.

    The possible magnitudes of an entry are 0 and `norm / 2^j` for j from 0 to `levels - 1`; each entry becomes one of
    the two around it.

    Use it when the magnitudes of a leaf's entries spread over several powers of two and few bits must be sent. Avoid it
    when most entries are smaller than `norm / 2^(levels - 1)`, because most of them then become zero. An entry takes
    `1 + ceil(log2(levels + 1))` bits, and a leaf 4 bytes more (8 in double precision).

    Args:
        levels: Number of powers of two, the norm itself among them, from 1 to 23. Default: 8.
        order: Order of the norm, from 1 to infinity. Default: infinity, the largest magnitude.
        key: Seed of the random draws, an integer or a JAX key.
        axis_name: Name of the axis over workers. With it, each worker draws for itself. Default: None, where all
            workers draw the same.

    Returns:
        A `Compressor` with omega `1/8 + r min(1, r)`, where `r = d^(1 / min(order, 2)) 2^(1 - levels)` for d entries.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> compressor = natural_dithering(3, key=0)
        >>> x = jnp.array([4.0, -2.0, 1.0, 0.0])
        >>> compressor.decompress(compressor.compress(x, compressor.init(x))[0], x).tolist()
        [4.0, -2.0, 1.0, 0.0]
    """
    return leafwise(natural_dithering_rule(levels, order), key, axis_name, real="natural_dithering")


def _layout(dtype: DTypeLike) -> tuple[Any, int, int]:
    """Returns the unsigned integer type of a dtype's width, the bits of its mantissa, and its number of exponents."""
    info = jnp.finfo(dtype)
    return {32: jnp.uint32, 64: jnp.uint64}[info.bits], info.nmant, 2**info.nexp


_NATURAL = Paper("Natural Compression for Distributed Deep Learning", "Horváth et al.", 2019, "1905.10988")

METHODS = (
    Method(
        name="compressors.natural",
        factory=natural,
        kind="function",
        summary="Rounds each entry at random to one of the two powers of two around it, so that it is unbiased.",
        paper=_NATURAL,
        also_known_as=("natural compression",),
    ),
    Method(
        name="compressors.natural_dithering",
        factory=natural_dithering,
        kind="function",
        summary="Rounds each entry at random to the leaf's norm divided by a power of two, so that it is unbiased.",
        paper=_NATURAL,
    ),
)
