"""Values of few bits for compressors that keep some entries.

The levels are equally spaced. SparseLoCo (Sarfi et al., "Communication Efficient LLM Pre-training with SparseLoCo",
2025, arXiv:2508.15706), which sends the kept entries of chunks with 2 bits, has a table of four levels for each leaf.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optkit.compressors._compressor import Compressor, require_rule
from optkit.compressors._leafwise import (
    Codes,
    Entries,
    Rule,
    combine_rows,
    inner_products_of_rows,
    map_entries,
    require_entries,
    shares_of_largest,
)
from optkit.core.bits import pack, unpack
from optkit.core.injection import refuse_arrays
from optkit.core.precision import widen
from optkit.method import Method

__all__ = ["quantize_values"]


def quantized_values_rule(rule: Rule, bits: int) -> Rule:
    """Makes the rule of `quantize_values`."""

    def dequantized(sent):
        return map_entries(lambda entries: dequantize(entries, bits), sent)

    def encode(x, drawn):
        sent = rule.encode(x, drawn)
        require_entries("quantize_values", sent, x)
        return map_entries(lambda entries: quantize(entries, bits), sent)

    def decode(sent, size, dtype):
        return rule.decode(dequantized(sent), size, dtype)

    def combine(weights, rows, size, dtype):
        return combine_rows(rule, weights, dequantized(rows), size, dtype)

    def inner_products(rows, x):
        return inner_products_of_rows(rule, dequantized(rows), x)

    return Rule(encode, decode, draw=rule.draw, combine=combine, inner_products=inner_products)


def quantize(entries: Entries, bits: int) -> Entries:
    """Rounds values to levels between minus and plus the largest of them, for each row of stacked entries.

    There is no level for zero: an entry of zero stands at the place of the first entry, which is the largest one.
    """
    if entries.values.ndim > 1:
        return jax.vmap(lambda row: quantize(row, bits))(entries)
    values, places, steps = widen(entries.values), entries.places, 2**bits - 1
    if values.size:
        swapped = jnp.array([jnp.argmax(jnp.abs(values)), 0])
        values, places = (x.at[swapped[::-1]].set(x[swapped]) for x in (values, places))
        places = jnp.where(values == 0, places[0], places)
    scale, shares = shares_of_largest(values)
    codes = jnp.clip(jnp.round((shares + 1) * (steps / 2)), 0, steps).astype(jnp.uint8)
    return Entries(Codes(pack(codes, bits), scale), places)


def dequantize(entries: Any, bits: int) -> Entries:
    """Returns the entries that `quantize` has rounded."""
    if entries.places.ndim > 1:
        return jax.vmap(lambda row: dequantize(row, bits))(entries)
    values, places, steps = entries.values, entries.places, 2**bits - 1
    if isinstance(values, Codes):  # otherwise somebody has put other values in their places
        levels = jnp.asarray(np.arange(-steps, steps + 1, 2) / steps, values.scale.dtype)
        values = levels[unpack(values.codes, places.size, bits, jnp.uint8)] * values.scale
    is_zero = (places == places[:1]) & (jnp.arange(places.size) > 0)
    return Entries(jnp.where(is_zero, 0, values), places)


def quantize_values(compressor: Compressor, bits: int | None = None) -> Compressor:
    """Rounds the entries that a compressor keeps to levels of few bits between minus and plus the largest of them.

    The rule for the kept entries v_i of a leaf, or of a block with `in_blocks`, where c_i is the code that is nearest::

        C(v)_i = max(|v|) * (2 c_i + 1 - 2^bits) / (2^bits - 1)    (for an integer c_i from 0 to 2^bits - 1)
        C(0) = 0

    Use it with error feedback to send fewer bytes than for places and whole values: with 2 bits in blocks, an entry
    takes 18 bits instead of 48. Avoid it without error feedback, because it is biased, even if the compressor is not.

    Args:
        compressor: Keeps some entries: `top_k`, `global_top_k`, `rand_k` or `hard_threshold`, alone, in blocks
            (`in_blocks`), or over the whole tree (`on_whole_tree`).
        bits: Bits of a value, 1, 2, 4 or 8. Default: None, which stands for 2.

    Returns:
        A `Compressor` without constants: a value changes by at most the largest one divided by `2^bits - 1`, which is
        more than a value much smaller than that.

    Raises:
        ValueError: If `bits` is not one of these, or if the compressor has no rule for a leaf.
        TypeError: From `compress`, if it does not keep entries.

    Example:
        >>> from optkit.compressors import in_blocks, top_k
        >>> compressor = quantize_values(in_blocks(top_k(0.5), 4))
        >>> x = jnp.array([3.0, -0.8, 0.0, 0.0, 2.0, 5.0, -6.0, 1.0])
        >>> compressor.decompress(compressor.compress(x, None)[0], x).tolist()
        [3.0, -1.0, 0.0, 0.0, 0.0, 6.0, -6.0, 0.0]
    """
    refuse_arrays(compressor=compressor, bits=bits)
    bits = 2 if bits is None else bits
    if bits not in (1, 2, 4, 8):
        raise ValueError(f"bits must be 1, 2, 4 or 8, got {bits!r}")
    change_rule = require_rule(compressor, "quantize_values")
    return change_rule(lambda rule: quantized_values_rule(rule, bits), real="quantize_values")


METHODS = (
    Method(
        name="compressors.quantize_values",
        factory=quantize_values,
        kind="function",
        summary="Rounds the entries that a compressor keeps to 2 or 4 bits.",
        also_known_as=("quantized sparsification", "2-bit top-k"),
    ),
)
