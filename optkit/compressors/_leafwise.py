"""Compressors made of a rule for one leaf, and what these rules share; codes are packed bit by bit.

Random draws and results are the same as in the code of the EF21-W experiments (`quant.py` of Sokolov, after Horváth's).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optkit.compressors._compressor import Compressor, Sums, sum_rows_in_groups, weigh
from optkit.core.bits import interleave, unpack, unpack_columns
from optkit.core.complex_numbers import refuse_complex
from optkit.core.keys import key_data, split
from optkit.core.linalg.explicit_axes import replicate, shard_like
from optkit.core.precision import widen
from optkit.core.top_k import add, take
from optkit.core.types import AxisName, DTypeLike, Key


class Rule(NamedTuple):
    """What a compressor does to one leaf, as a vector.

    Attributes:
        encode: Returns what is sent, from the vector and the draws (None for a rule without draws).
        decode: Returns the vector, from what was sent, its size and its dtype.
        delta: Returns the constant of contraction for a vector of a given size; None if there is none.
        omega: Returns the constant of variance for a vector of a given size; None if there is none.
        draw: Returns the draws for a vector of a given size and dtype, from a key; None for a rule without draws.
        combine: Returns the weighted sum of many vectors, from the weights, what was sent of each, stacked along a
            leading axis, their size and the dtype of the result. A vector of weight zero is left out. None if there is
            nothing better than to decode them.
        inner_products: Returns the inner products of a vector with many, from what was sent of these and the vector.
            None if there is nothing better than to decode them.
        sums: How what was sent is added up; its `total` gets the size and the dtype of the vector in place of a tree.
            None if it cannot be.
    """

    encode: Callable[[jax.Array, Any], Any]
    decode: Callable[[Any, int, Any], jax.Array]
    delta: Callable[[int], float] | None = None
    omega: Callable[[int], float] | None = None
    draw: Callable[[jax.Array, int, Any], Any] | None = None
    combine: Callable[[jax.Array, Any, int, Any], jax.Array] | None = None
    inner_products: Callable[[Any, jax.Array], jax.Array] | None = None
    sums: Sums | None = None


def leafwise(
    rule: Rule, key: Key | None = None, axis_name: AxisName | None = None, *, real: str | None = None
) -> Compressor:
    """Makes a compressor from a rule for one leaf.

    Args:
        rule: What is done to a leaf. Sharded leaves are gathered if mesh axes are explicit.
        key: Seed of the random draws, an integer or a JAX key. None for a rule without draws.
        axis_name: Name of the axis over workers. With it, each worker draws for itself. Default: None, where all
            workers draw the same. The state is equal on all workers in both cases.
        real: Public name of a compressor whose rule is for real numbers; None if complex ones can be compressed.

    Returns:
        The compressor. Its compressed form is a tree of what the rule makes of each leaf.

    Example:
        >>> import jax.numpy as jnp
        >>> halves = Rule(lambda x, _: x.astype(jnp.bfloat16), lambda sent, size, dtype: sent.astype(dtype))
        >>> leafwise(halves).compress({"a": jnp.ones(2)}, None)[0]
        {'a': Array([1, 1], dtype=bfloat16)}
    """
    return by_shape(lambda _: rule, key, axis_name, real=real)


def by_shape(
    rule_of: Callable[[tuple[int, ...]], Rule],
    key: Key | None = None,
    axis_name: AxisName | None = None,
    *,
    real: str | None = None,
) -> Compressor:
    """Makes a compressor whose rule for a leaf depends on the shape of the leaf.

    Args:
        rule_of: Returns what is done to a leaf of a given shape, as a vector. The rules of all shapes have the same
            fields that are not None.
        key: See `leafwise`.
        axis_name: See `leafwise`.
        real: See `leafwise`.

    Returns:
        The compressor. Its compressed form is a tree of what the rules make of each leaf.

    Example:
        >>> import jax.numpy as jnp
        >>> first = lambda shape: Rule(lambda x, _: x[: len(shape)], lambda sent, size, dtype: sent)
        >>> by_shape(first).compress(jnp.ones((3, 4)), None)[0].tolist()
        [1.0, 1.0]
    """
    any_rule = rule_of(())

    def require_real(tree):
        if real is not None:
            refuse_complex(tree, real, functions=True)

    def init(params):
        require_real(params)
        return None if key is None else key_data(key)

    def compress(tree, state):
        require_real(tree)
        leaves, structure = jax.tree.flatten(tree)
        draws, state = _draw(rule_of, key, axis_name, state, leaves)
        sent = [rule_of(x.shape).encode(replicate(x).ravel(), drawn) for x, drawn in zip(leaves, draws, strict=True)]
        return structure.unflatten(sent), state

    def inner_products(rows, tree):
        def of_leaf(x, sent):
            return inner_products_of_rows(rule_of(x.shape), sent, widen(replicate(x)).ravel())

        return functools.reduce(jnp.add, jax.tree.leaves(jax.tree.map(of_leaf, tree, rows)))

    def decode(x, sent):
        return rule_of(x.shape).decode(sent, x.size, x.dtype)

    def combine(weights, x, sent):
        return combine_rows(rule_of(x.shape), weights, sent, x.size, x.dtype)

    return Compressor(
        init=init,
        compress=compress,
        decompress=lambda compressed, like: _on_leaves(decode, like, compressed),
        inner_products=inner_products,
        combine=lambda weights, rows, like: _on_leaves(functools.partial(combine, weights), like, rows),
        delta=_worst(min, None if any_rule.delta is None else lambda shape: rule_of(shape).delta, 1),
        omega=_worst(max, None if any_rule.omega is None else lambda shape: rule_of(shape).omega, 0),
        sums=_sums_of_leaves(any_rule.sums),
        change_rule=lambda change, real=real: by_shape(lambda shape: change(rule_of(shape)), key, axis_name, real=real),
    )


def _draw(
    rule_of: Callable[[tuple[int, ...]], Rule],
    key: Key | None,
    axis_name: AxisName | None,
    state: Any,
    leaves: list[jax.Array],
) -> tuple[list[Any], Any]:
    """Returns the draws for each leaf, and the next state."""
    draws = [rule_of(x.shape).draw for x in leaves]
    if key is None:
        return [None] * len(leaves), state
    state, fresh = split(state, key)
    if axis_name is not None:
        fresh = jax.random.fold_in(fresh, jax.lax.axis_index(axis_name))
    return [
        None if draw is None else draw(jax.random.fold_in(fresh, i), x.size, widen(x).dtype)
        for i, (draw, x) in enumerate(zip(draws, leaves, strict=True))
    ], state


def _on_leaves(function: Callable[..., jax.Array], like: Any, *compressed: Any) -> Any:
    """Maps a function of a leaf, and of what was sent of it, to a vector, and gives the vectors the leaves' shapes."""

    def leaf(x, *sent):
        return shard_like(function(x, *sent).reshape(x.shape), x)

    return jax.tree.map(leaf, like, *compressed)


def _sums_of_leaves(sums: Sums | None) -> Sums | None:
    """Makes the sums of trees from those of one leaf."""
    if sums is None:
        return None
    return Sums(
        lambda compressed, workers: jax.tree.map(lambda x: sums.addends(x, workers), compressed, is_leaf=_was_sent),
        lambda summed, own, like: _on_leaves(
            lambda x, summed, own: sums.total(summed, own, x.size, x.dtype), like, summed, own
        ),
    )


def inner_products_of_rows(rule: Rule, rows: Any, x: jax.Array) -> jax.Array:
    """Returns the inner products of a vector with many, from what the rule has sent of them, stacked."""
    if not x.size:
        return jnp.zeros([], x.dtype)
    if rule.inner_products is not None:
        return rule.inner_products(rows, x)
    return jax.lax.map(lambda row: jnp.vdot(rule.decode(row, x.size, x.dtype), x), rows)


def combine_rows(rule: Rule, weights: jax.Array, rows: Any, size: int, dtype: DTypeLike) -> jax.Array:
    """Returns the weighted sum of many vectors, from what the rule has sent of them, stacked along a leading axis."""
    wide = widen(jnp.zeros([], dtype)).dtype

    def term(weight, sent):
        return weigh(weight, rule.decode(sent, size, wide))

    if not size:
        return jnp.zeros([0], dtype)
    if rule.combine is not None:
        return rule.combine(weights, rows, size, wide).astype(dtype)
    return sum_rows_in_groups(term, weights, rows).astype(dtype)


def _worst(choose: Callable[..., float], constant_of: Callable[..., Any] | None, best: float) -> Any:
    """Makes the constant of a tree from those of leaves of given shapes."""
    if constant_of is None:
        return None
    return lambda tree: choose([best, *(constant_of(x.shape)(x.size) for x in jax.tree.leaves(tree) if x.size)])


class Entries(NamedTuple):
    """Some entries of a tree, where all others are zero.

    Attributes:
        values: The entries, or `Codes` of them.
        places: Their places in the flattened leaf, or in the vector of all leaves one after another.
    """

    values: Any
    places: jax.Array


class Codes(NamedTuple):
    """A vector as integers of few bits, in units of a scale.

    Attributes:
        codes: Packed bytes.
        scale: A scalar, at least in float32.
    """

    codes: jax.Array
    scale: jax.Array


class Blocks(NamedTuple):
    """What was sent of the blocks of a vector.

    Attributes:
        full: Of all blocks but a shorter last one, stacked along a leading axis. None if there are none.
        rest: Of a shorter last block. None if there is none.
    """

    full: Any
    rest: Any


class Sketch(NamedTuple):
    """A random linear image of a vector.

    Attributes:
        numbers: The image, which is all that must be sent if the messages of workers are added up.
        key: Data of the key with which the image was drawn, equal on all workers. A receiver draws it again.
    """

    numbers: jax.Array
    key: jax.Array


def _was_sent(x: Any) -> bool:
    """Whether a node of a compressed tree is what was sent of one leaf."""
    return isinstance(x, (Entries, Codes, Blocks, Sketch))


def is_entries(x: Any) -> bool:
    """Whether a node of what was sent is `Entries`."""
    return isinstance(x, Entries)


def map_entries(function: Callable[[Entries], Any], sent: Any) -> Any:
    """Maps a function over all `Entries` in what was sent."""
    return jax.tree.map(lambda x: function(x) if is_entries(x) else x, sent, is_leaf=is_entries)


def require_entries(method: str, sent: Any, x: jax.Array) -> None:
    """Raises if what was sent of a vector has no `Entries`.

    Raises:
        TypeError: If it has none.
    """
    if x.size and not any(map(is_entries, jax.tree.leaves(sent, is_leaf=is_entries))):
        raise TypeError(
            f"{method} needs a compressor that keeps entries, such as top_k, got one whose message has none"
            f" ({type(sent).__name__})"
        )


def number_kept(size: int, density: float, *, round_up: bool) -> int:
    """Returns how many of `size` entries are kept: a share of them, but at least one if there is one."""
    return min(max((math.ceil if round_up else math.floor)(density * size), 1), size)


def code_dtype(bits: int) -> Any:
    """Returns the smallest unsigned integer type for codes of so many bits."""
    return next(t for t in (jnp.uint8, jnp.uint16, jnp.uint32) if bits <= jnp.iinfo(t).bits)


def draw_uniform(key: jax.Array, size: int, dtype: DTypeLike) -> jax.Array:
    """Draws a number from 0 to 1 for each entry."""
    return jax.random.uniform(key, (size,), dtype)


def as_it_came(sent: jax.Array, size: int, dtype: DTypeLike) -> jax.Array:
    """Returns the vector that was sent without encoding."""
    del size
    return sent.astype(dtype)


def decode_entries(sent: Entries, size: int, dtype: DTypeLike) -> jax.Array:
    """Puts entries back in their places. Several may have one place if all but one are zero."""
    return add(jnp.zeros([size], dtype), sent.places, sent.values.astype(dtype), unique=False)


def combine_entries(weights: jax.Array, rows: Entries, size: int, dtype: DTypeLike) -> jax.Array:
    """Returns the weighted sum of the vectors of many messages, stacked along a leading axis."""

    # One row after the other: otherwise a GPU would add entries of equal places in any order.
    def add_row(total, weighted):
        weight, entries = weighted
        # In a window that is not yet full there are entries of zero, all at place 0.
        return add(total, entries.places, weigh(weight, entries.values.astype(dtype)), unique=False), None

    first, others = ((jax.tree.map(lambda x, at=at: x[at], (weights, rows))) for at in (0, slice(1, None)))
    return jax.lax.scan(add_row, add_row(jnp.zeros([size], dtype), first)[0], others)[0]


def entries_inner_products(rows: Entries, x: jax.Array) -> jax.Array:
    """Returns the inner products of a vector with those of many messages, stacked along a leading axis."""
    return jnp.sum(jnp.conj(rows.values.astype(x.dtype)) * take(x, rows.places), axis=-1)


SPARSE: Any = {"combine": combine_entries, "inner_products": entries_inner_products}


def code_rule(
    encode: Callable[[jax.Array, Any], Codes], bits: int, value: Callable[..., jax.Array], **rest: Any
) -> Rule:
    """Makes the rule of a compressor to `Codes`.

    Args:
        encode: See `Rule`.
        bits: Number of bits of a code.
        value: Returns what codes stand for, from a vector of codes and the scale, in whose dtype it is.
        **rest: Further fields of the rule.

    Returns:
        The rule. It combines vectors in one pass over their codes.
    """

    def decode(sent, size, dtype):
        return value(unpack(sent.codes, size, bits, code_dtype(bits)), sent.scale).astype(dtype)

    def combine(weights, rows, size, dtype):
        factors = weigh(weights, rows.scale.astype(dtype))
        return combine_packed(factors, rows.codes, size, bits, lambda factor, codes: value(codes, factor))

    return Rule(encode, decode, combine=combine, **rest)


def combine_packed(
    weights: jax.Array, rows: jax.Array, size: int, bits: int, term: Callable[[jax.Array, jax.Array], jax.Array]
) -> jax.Array:
    """Adds up a function of a weight and a vector of codes, over rows of packed codes."""

    def columns(weight, packed):
        return [term(weight, codes) for codes in unpack_columns(packed, bits, code_dtype(bits))]

    return interleave(sum_rows_in_groups(columns, weights, rows), size)


def code_sums(bits: int, levels: int) -> Sums:
    """Returns how `Codes` of integers from `-levels` to `levels` are added up if their scale is equal on all workers.

    Args:
        bits: Number of bits of a code, which is `levels` more than its integer.
        levels: The largest integer. It stands for the scale.

    Returns:
        Sums of integers of 8 bits if these are enough, then 16 or 32. What fills the last byte is added up too.
    """

    def addends(sent, workers):
        dtype = next(t for t in (jnp.int8, jnp.int16, jnp.int32) if workers * levels <= jnp.iinfo(t).max)
        codes = unpack(sent.codes, sent.codes.size * 8 // bits, bits, code_dtype(bits))
        return codes.astype(dtype) - dtype(levels)

    def total(summed, own, size, dtype):
        return (summed[:size].astype(own.scale.dtype) / levels * own.scale).astype(dtype)

    return Sums(addends, total)


def require_few(size: int, method: str) -> None:
    """Raises a ValueError if the places of a leaf's entries do not fit into 32 bits.

    Raises:
        ValueError: If a leaf has more than 2**31 entries.
    """
    if size > 2**31:
        raise ValueError(
            f"{method} counts the entries of a leaf with 32 bits, and one has {size}: split it into several leaves"
        )


def shares_of_norm(x: jax.Array, order: float) -> tuple[jax.Array, jax.Array]:
    """Returns the norm, and the magnitudes as shares of it, without squares that overflow or underflow."""
    largest, unit = shares_of_largest(jnp.abs(x))
    norm = jnp.linalg.norm(unit, order) if x.size else largest
    return largest * norm, unit / jnp.where(norm > 0, norm, 1)


def shares_of_largest(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the largest magnitude, and the entries as shares of it, which are zero if it is."""
    largest = jnp.max(jnp.abs(x), initial=0)
    # XLA divides by a scalar by multiplying with its reciprocal, which is zero for very large scalars.
    far = 2.0 ** (jnp.finfo(x.dtype).maxexp // 2)
    near = jnp.where(largest > far, 1 / far, jnp.where(largest < 1 / far, far, 1)).astype(x.dtype)
    unit = largest * near
    return largest, x * near / jnp.where(unit > 0, unit, 1)
