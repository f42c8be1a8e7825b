"""What compressors do to one leaf, as functions of their draws; codes are packed to the bit.

Numbers are those of the code of the EF21-W experiments (`quant.py` of Sokolov, after Horváth's), which draws the same.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optkit.compressors._compressor import Entries
from optkit.compressors._leafwise import Rule
from optkit.core.bits import pack, unpack
from optkit.core.checks import check_integer, check_range
from optkit.core.precision import widen
from optkit.core.top_k import add, take
from optkit.core.top_k import top_k as find_top_k
from optkit.core.types import DTypeLike


class Codes(NamedTuple):
    """A vector as integers of few bits, in units of one scale.

    Attributes:
        codes: packed bytes.
        scale: a scalar, in float32 at least.
    """

    codes: jax.Array
    scale: jax.Array


def number_kept(size: int, density: float, *, round_up: bool) -> int:
    """Says how many of some entries are kept: a share of them, at least 1 of those that there are."""
    return min(max((math.ceil if round_up else math.floor)(density * size), 1), size)


def draw_uniform(key: jax.Array, size: int, dtype: DTypeLike) -> jax.Array:
    """Draws a number from 0 to 1 for each entry."""
    return jax.random.uniform(key, (size,), dtype)


def as_it_came(sent: jax.Array, size: int, dtype: DTypeLike) -> jax.Array:
    """Gives the vector that was sent whole."""
    del size
    return sent.astype(dtype)


def decode_entries(sent: Entries, size: int, dtype: DTypeLike) -> jax.Array:
    """Puts entries back in their places."""
    return add(jnp.zeros([size], dtype), sent.places, sent.values.astype(dtype))


def require_few(size: int, method: str) -> None:
    """Raises where the places of entries are no numbers of 32 bits.

    Raises:
        ValueError: if a leaf has more than 2**31 entries.
    """
    if size > 2**31:
        raise ValueError(
            f"{method} counts the entries of a leaf with 32 bits, and one has {size}: part it into several"
        )


def top_k_rule(density: float, *, round_up: bool) -> Rule:
    """Makes the rule of `top_k`."""

    def number(size):
        return number_kept(size, density, round_up=round_up)

    def encode(x, _):
        require_few(x.size, "top_k")
        places = find_top_k(x, number(x.size))
        return Entries(take(x, places), places)

    return Rule(encode, decode_entries, delta=lambda size: number(size) / size)


def scaled_sign_rule() -> Rule:
    """Makes the rule of `scaled_sign`."""

    def encode(x, _):
        x = widen(x)
        # Divided first: the sum of many large entries is past the largest number.
        return Codes(pack((x < 0).astype(jnp.uint32), 1), jnp.sum(jnp.abs(x) / float(max(x.size, 1))))

    def decode(sent, size, dtype):
        return (sent.scale * jnp.where(unpack(sent.codes, size, 1) == 1, -1, 1)).astype(dtype)

    return Rule(encode, decode, delta=lambda size: 1 / size)


def rand_k_rule(density: float, *, round_up: bool) -> Rule:
    """Makes the rule of `rand_k`; its draws are a permutation, whose first places are kept."""

    def number(size):
        return number_kept(size, density, round_up=round_up)

    def encode(x, permutation):
        places = permutation[: number(x.size)].astype(jnp.int32)
        return Entries((take(widen(x), places) * (x.size / max(places.size, 1))).astype(x.dtype), places)

    def draw(key, size, _):
        require_few(size, "rand_k")
        return jax.random.permutation(key, size)

    return Rule(encode, decode_entries, omega=lambda size: size / number(size) - 1, draw=draw)


def dithering_rule(levels: int, order: float) -> Rule:
    """Makes the rule of `qsgd` (order 2) and `dithering_inf`; its draws are uniform, one for each entry."""
    check_integer("levels", levels)
    bits = (2 * levels).bit_length()

    def encode(x, uniform):
        x = widen(x)
        norm, shares = _shares(x, order)
        level = jnp.minimum(jnp.floor(levels * shares + uniform), levels)
        return Codes(pack((jnp.where(x < 0, -level, level) + levels).astype(jnp.uint32), bits), norm)

    def decode(sent, size, dtype):
        level = unpack(sent.codes, size, bits).astype(sent.scale.dtype) - levels
        return (level / levels * sent.scale).astype(dtype)

    def omega(size):
        return min(size / levels**2, math.sqrt(size) / levels)

    return Rule(encode, decode, omega=omega, draw=draw_uniform)


def natural_rule() -> Rule:
    """Makes the rule of `natural`; its draws are uniform, one for each entry."""

    def encode(x, uniform):
        x = widen(x)
        wire, mantissa_bits, exponents = _layout(x.dtype)
        number = jax.lax.bitcast_convert_type(x, wire)
        past_power = (number & (2**mantissa_bits - 1)).astype(x.dtype) / 2**mantissa_bits
        exponent = number >> mantissa_bits & (exponents - 1)
        raised = jnp.minimum(exponent + (uniform + past_power >= 1).astype(wire), exponents - 1)
        code = jnp.where(x < 0, exponents, 0).astype(wire) | jnp.where(exponent > 0, raised, 0)
        return pack(code.astype(jnp.uint32), exponents.bit_length())

    def decode(sent, size, dtype):
        wide = widen(jnp.zeros([], dtype)).dtype
        wire, mantissa_bits, exponents = _layout(wide)
        code = unpack(sent, size, exponents.bit_length()).astype(wire)
        return jax.lax.bitcast_convert_type(code << mantissa_bits, wide).astype(dtype)

    return Rule(encode, decode, omega=lambda _: 1 / 8, draw=draw_uniform)


def natural_dithering_rule(levels: int, order: float) -> Rule:
    """Makes the rule of `natural_dithering`; its draws are uniform, two for each entry, of shape (2, size).

    The first rounds to `2**(levels - 1)` equal parts of the norm, the second a part's number to a power of two.
    """
    check_integer("levels", levels)
    check_range("levels", levels, 1, 23)
    check_range("order", order, 1.0)
    bits = (2 * levels).bit_length()

    def encode(x, uniform):
        x = widen(x)
        norm, shares = _shares(x, order)
        part = jnp.minimum(jnp.floor(2 ** (levels - 1) * shares + uniform[0]), 2 ** (levels - 1))
        half, exponent = jnp.frexp(part)  # in [1/2, 1), and one more than that of the power below
        level = exponent + jnp.floor(uniform[1] + (2 * half - 1)).astype(exponent.dtype)
        level = jnp.where(part > 0, level, 0)
        return Codes(pack((jnp.where(x < 0, -level, level) + levels).astype(jnp.uint32), bits), norm)

    def decode(sent, size, dtype):
        level = unpack(sent.codes, size, bits).astype(jnp.int32) - levels
        share = jnp.where(level == 0, 0, jnp.ldexp(jnp.ones([], sent.scale.dtype), jnp.abs(level) - levels))
        return (jnp.sign(level).astype(share.dtype) * share * sent.scale).astype(dtype)

    def omega(size):
        rest = size ** (1 / min(order, 2)) * 2.0 ** (1 - levels)
        return 1 / 8 + rest * min(1, rest)

    return Rule(encode, decode, omega=omega, draw=lambda key, size, dtype: jax.random.uniform(key, (2, size), dtype))


def wangni_rule(density: float) -> Rule:
    """Makes the rule of `wangni_sparsify`; its draws are uniform, one for each entry."""
    check_range("density", density, 0.0, 1.0, low_open=True)

    def encode(x, uniform):
        x = widen(x)
        chance = keeping_chances(x, number_kept(x.size, density, round_up=False))
        value = jnp.where(chance > 1e-6, x / jnp.where(chance > 0, chance, 1), x)
        # With an entry that is not finite there are no chances.
        return jnp.where(jnp.all(jnp.isfinite(x)), jnp.where(uniform < chance, value, 0), jnp.nan)

    return Rule(encode, as_it_came, draw=draw_uniform)


def keeping_chances(x: jax.Array, number: int) -> jax.Array:
    """Gives the probabilities to keep entries, so that about a number of them are kept with the least variance.

    They are in proportion to magnitudes, but for those that would exceed one. What these cannot use goes to the others,
    in four rounds.
    """
    magnitude = jnp.abs(x)
    total = jnp.sum(magnitude)
    chance = jnp.minimum(number * magnitude / jnp.where(total > 0, total, 1), 1)
    growing = jnp.array(True)
    for _ in range(4):
        below = chance < 1
        rest = jnp.sum(jnp.where(below, chance, 0))
        factor = (number - x.size + jnp.sum(below, dtype=x.dtype)) / jnp.where(rest > 0, rest, 1)
        growing &= (rest > 0) & (factor > 1)
        chance = jnp.where(growing & below, jnp.minimum(factor * chance, 1), chance)
    return chance


def _shares(x: jax.Array, order: float) -> tuple[jax.Array, jax.Array]:
    """The norm, and magnitudes as shares of it, without squares that leave the range of the dtype."""
    largest = jnp.max(jnp.abs(x), initial=0)
    unit = jnp.abs(x) / jnp.where(largest > 0, largest, 1)
    norm = jnp.linalg.norm(unit, order) if x.size else largest
    return largest * norm, unit / jnp.where(norm > 0, norm, 1)


def _layout(dtype: DTypeLike) -> tuple[Any, int, int]:
    """The unsigned integers of a dtype's width, the bits of its mantissa, and the number of its exponents."""
    info = jnp.finfo(dtype)
    return {32: jnp.uint32, 64: jnp.uint64}[info.bits], info.nmant, 2**info.nexp
