"""Values as bins: a kept entry is sent as the number of its bin, and a table holds the mean of each bin.

Sarfi et al., "Communication Efficient LLM Pre-training with SparseLoCo", 2025, arXiv:2508.15706. The rule is that of
the authors' code.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from optkit.compressors._compressor import Compressor, require_rule
from optkit.compressors._leafwise import (
    Entries,
    Rule,
    combine_rows,
    inner_products_of_rows,
    map_entries,
    require_entries,
)
from optkit.compressors._top_k_in_chunks import SPARSE_LOCO
from optkit.core.bits import pack, unpack
from optkit.core.checks import check_integer, check_range
from optkit.core.injection import refuse_arrays
from optkit.core.precision import widen
from optkit.method import Method

__all__ = ["bin_values"]


class Binned(NamedTuple):
    """Values as numbers of bins.

    Attributes:
        codes: The numbers, packed into bytes.
        mean: The mean of all values, at least in float32.
        table: The mean of the values in each bin, less the mean of all, at least in float32.
    """

    codes: jax.Array
    mean: jax.Array
    table: jax.Array


def binned_values_rule(rule: Rule, bins: int, spread: float) -> Rule:
    """Makes the rule of `bin_values`."""
    bits = max(1, math.ceil(math.log2(bins)))

    def unbinned(sent):
        return map_entries(lambda entries: _unbin(entries, bits), sent)

    def encode(x, drawn):
        sent = rule.encode(x, drawn)
        require_entries("bin_values", sent, x)
        return map_entries(lambda entries: _bin(entries, bins, bits, spread), sent)

    def decode(sent, size, dtype):
        return rule.decode(unbinned(sent), size, dtype)

    def combine(weights, rows, size, dtype):
        return combine_rows(rule, weights, unbinned(rows), size, dtype)

    def inner_products(rows, x):
        return inner_products_of_rows(rule, unbinned(rows), x)

    return Rule(encode, decode, draw=rule.draw, combine=combine, inner_products=inner_products)


def _bin(entries: Entries, bins: int, bits: int, spread: float) -> Entries:
    """Replaces all values, of however many blocks, by numbers of bins."""
    values = widen(entries.values).ravel()
    mean = jnp.mean(values)
    centred = values - mean
    width = spread / bins * jnp.std(values, ddof=1) if values.size > 1 else jnp.zeros_like(mean)
    width = jnp.where((width > 0) & jnp.isfinite(width), width, 1)
    codes = jnp.clip(jnp.round(centred / width + bins // 2), 0, bins - 1).astype(jnp.int32)

    def mean_of_bin(code):
        inside = codes == code
        return jnp.sum(jnp.where(inside, centred, 0)) / jnp.maximum(jnp.sum(inside), 1).astype(centred.dtype)

    table = jax.vmap(mean_of_bin)(jnp.arange(bins))
    return Entries(Binned(pack(codes.astype(jnp.uint32), bits), mean, table), entries.places)


def _unbin(entries: Entries, bits: int) -> Entries:
    """Returns the entries that `_bin` has changed. Messages may be stacked along a leading axis."""
    if not isinstance(entries.values, Binned):  # somebody has put other values in their places
        return entries
    codes, mean, table = entries.values
    if mean.ndim:
        return jax.vmap(lambda row: _unbin(row, bits))(entries)
    values = (table + mean)[unpack(codes, entries.places.size, bits)]
    return Entries(values.reshape(entries.places.shape), entries.places)


def bin_values(compressor: Compressor, bins: int | None = None, spread: float = 6.0) -> Compressor:
    """Replaces the entries that a compressor keeps by the means of few bins.

    The rule for the kept entries v of a leaf, where m is their mean and s their standard deviation::

        code = clip(round((v - m) / (spread * s / bins) + floor(bins / 2)), 0, bins - 1)
        C(v) = the mean of all v with the same code

    Use it with error feedback to send fewer bytes than for places and whole values: with 4 bins and
    `top_k_in_chunks()`, an entry takes 18 bits instead of 48, and a leaf a table of 20 bytes more. Its levels are where
    the values are, unlike those of `quantize_values`, and entries of one message keep their mean. Avoid it without
    error feedback, because it is biased.

    Args:
        compressor: Keeps some entries: `top_k_in_chunks`, `top_k`, `global_top_k`, `rand_k` or `hard_threshold`, alone,
            in blocks (`in_blocks`), or over the whole tree (`on_whole_tree`). All blocks of a leaf have one table, but
            a shorter last one of `in_blocks` has its own.
        bins: Number of bins, from 2 to 256. Default: None, which stands for 4.
        spread: Over how many standard deviations bins are spread, above 0. The first and the last bin also take what
            lies outside. Default: 6.

    Returns:
        A `Compressor` without constants.

    Raises:
        ValueError: If an argument is out of its range, or if the compressor has no rule for a leaf.
        TypeError: From `compress`, if it does not keep entries.

    Example:
        >>> from optkit.compressors import top_k
        >>> compressor = bin_values(top_k(0.5), spread=3.0)
        >>> x = jnp.array([3.0, -0.5, 5.0, 0.0, -7.0, 0.0, -9.0, 1.0])
        >>> compressor.decompress(compressor.compress(x, None)[0], x).tolist()
        [4.0, 0.0, 4.0, 0.0, -8.0, 0.0, -8.0, 0.0]

    Reference:
        arXiv:2508.15706
    """
    refuse_arrays(compressor=compressor, bins=bins)
    count = 4 if bins is None else bins
    check_integer("bins", count, least=2)
    check_range("bins", count, 2, 256)
    check_range("spread", spread, 0.0, low_open=True)
    change_rule = require_rule(compressor, "bin_values")
    return change_rule(lambda rule: binned_values_rule(rule, count, spread), real="bin_values")


METHODS = (
    Method(
        name="compressors.bin_values",
        factory=bin_values,
        kind="function",
        summary="Replaces the entries that a compressor keeps by the means of few bins.",
        paper=SPARSE_LOCO,
        also_known_as=("2-bit quantization", "SparseLoCo's quantizer", "statistical quantizer"),
    ),
)
