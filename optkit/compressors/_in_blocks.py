"""Compressors of blocks of adjacent entries, each with its own scale or its own largest entries."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from optkit.compressors._compressor import Compressor, Sums, require_rule
from optkit.compressors._leafwise import Blocks, Entries, Rule, combine_rows, map_entries
from optkit.core.checks import check_integer
from optkit.core.injection import refuse_arrays
from optkit.method import Method

__all__ = ["in_blocks"]


def in_blocks_rule(rule: Rule, block_size: int) -> Rule:
    """Makes the rule of `in_blocks`; it draws for each block what the rule draws for a vector."""

    def parts(size):
        """Returns the size of a full block, their number, and the size of a shorter last block."""
        block = max(min(size, block_size), 1)
        return block, *divmod(size, block)

    def join(function, size, *sent, blocks_axis=0):
        """Maps a function of the size of a block and of what was sent, and puts the blocks together."""
        block, full, rest = parts(size)
        of_full = jax.vmap(functools.partial(function, block), in_axes=blocks_axis)
        vectors = [of_full(*(x.full for x in sent)).ravel()] if full else []
        vectors += [function(rest, *(x.rest for x in sent))] if rest else []
        return jnp.concatenate(vectors)

    def encode(x, drawn):
        block, full, rest = parts(x.size)
        drawn = Blocks(None, None) if drawn is None else drawn
        end = x.size - rest

        def of_block(x, drawn):
            return _narrow(rule.encode(x, drawn), block)

        return Blocks(
            jax.vmap(of_block)(x[:end].reshape(full, block), drawn.full) if full else None,
            of_block(x[end:], drawn.rest) if rest else None,
        )

    def decode(sent, size, dtype):
        return join(lambda size, sent: rule.decode(_widen(sent), size, dtype), size, sent) if size else _empty(dtype)

    def draw(key, size, dtype):
        block, full, rest = parts(size)
        keys = jax.random.split(key, 2)
        of_full = jax.vmap(lambda key: rule.draw(key, block, dtype))
        return Blocks(
            of_full(jax.random.split(keys[0], full)) if full else None,
            rule.draw(keys[1], rest, dtype) if rest else None,
        )

    def combine(weights, rows, size, dtype):
        def of_block(size, rows):
            return combine_rows(rule, weights, _widen(rows), size, dtype)

        return join(of_block, size, rows, blocks_axis=1) if size else _empty(dtype)

    def inner_products(rows, x):
        block, full, rest = parts(x.size)
        end = x.size - rest

        def of_block(rows, x):
            return rule.inner_products(_widen(rows), x)

        products = [jnp.zeros([], x.dtype)]
        products += [jnp.sum(jax.vmap(of_block, (1, 0))(rows.full, x[:end].reshape(full, block)), 0)] if full else []
        products += [of_block(rows.rest, x[end:])] if rest else []
        return functools.reduce(jnp.add, products)

    def worst(choose, constant):
        if constant is None:
            return None

        def of_blocks(size):
            block, _, rest = parts(size)
            return choose(constant(part) for part in (block, rest) if part)

        return of_blocks

    return Rule(
        encode,
        decode,
        delta=worst(min, rule.delta),
        omega=worst(max, rule.omega),
        draw=None if rule.draw is None else draw,
        combine=combine,
        inner_products=None if rule.inner_products is None else inner_products,
        sums=None if rule.sums is None else _sums_of_blocks(rule.sums, join),
    )


def in_blocks(compressor: Compressor, block_size: int | None = None) -> Compressor:
    """Applies a compressor to each block of adjacent entries of a leaf by itself.

    The last block of a leaf may be shorter, and has its own scale, number of entries and draws like all others.

    Use it with `scaled_sign`, `qsgd` or another compressor with a scale, if entries of a leaf differ much in size: as
    "buckets" they make QSGD's variance smaller, because the root of the block's size stands in its constant. Use it
    with `top_k`, which finds the largest entries of blocks much faster than those of a leaf; their places take 2 bytes
    instead of 4 if blocks have at most 65536 entries. Avoid small blocks with a scale, which takes 4 bytes for each.
    Within `on_whole_tree`, blocks extend across leaves: `on_whole_tree(in_blocks(top_k(0.01)))`.

    Args:
        compressor: The compressor. It must treat each leaf by itself, or be made by `on_whole_tree` of one that does.
        block_size: Number of entries in a block, at least 1. Default: None, which stands for 4096.

    Returns:
        A `Compressor`. Its constants are those of the compressor for the block for which they are worst.

    Raises:
        ValueError: If `block_size` is not a positive integer, or if the compressor has no rule for a leaf.

    Example:
        >>> import jax.numpy as jnp
        >>> from optkit.compressors import scaled_sign
        >>> compressor = in_blocks(scaled_sign(), 2)
        >>> x = jnp.array([1.0, -3.0, 30.0, -10.0, 0.5])
        >>> compressor.decompress(compressor.compress(x, None)[0], x).tolist()
        [2.0, -2.0, 20.0, -20.0, 0.5]
    """
    refuse_arrays(compressor=compressor, block_size=block_size)
    size = 4096 if block_size is None else block_size
    check_integer("block_size", size)
    return require_rule(compressor, "in_blocks")(lambda rule: in_blocks_rule(rule, size))


def _sums_of_blocks(sums: Sums, join: Any) -> Sums:
    def addends(sent, workers):
        def of_block(sent):
            return sums.addends(_widen(sent), workers)

        return Blocks(
            None if sent.full is None else jax.vmap(of_block)(sent.full),
            None if sent.rest is None else of_block(sent.rest),
        )

    def total(summed, own, size, dtype):
        def of_block(size, summed, own):
            return sums.total(summed, _widen(own), size, dtype)

        return join(of_block, size, summed, own) if size else _empty(dtype)

    return Sums(addends, total)


def _narrow(sent: Any, block: int) -> Any:
    """Casts places in a block to 16 bits if these are enough."""
    if block > 2**16:
        return sent
    return map_entries(lambda x: x._replace(places=x.places.astype(jnp.uint16)), sent)


def _widen(sent: Any) -> Any:
    """Casts places to the dtype in which JAX counts; the number of entries of a block may not fit into 16 bits."""
    return map_entries(lambda x: x._replace(places=x.places.astype(jnp.int32)), sent)


def _empty(dtype: Any) -> jax.Array:
    return jnp.zeros([0], dtype)


METHODS = (
    Method(
        name="compressors.in_blocks",
        factory=in_blocks,
        kind="function",
        summary="Applies a compressor to each block of adjacent entries of a leaf by itself.",
        also_known_as=("buckets", "chunks", "block top-k", "block-wise scales"),
    ),
)
