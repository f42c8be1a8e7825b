"""Compressors of blocks of adjacent entries, each with its own scale or its own largest entries."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from optkit.compressors._compressor import Compressor, Sums, require_rule
from optkit.compressors._leafwise import Blocks, Rule, combine_rows, inner_products_of_rows, map_entries
from optkit.core.checks import check_integer
from optkit.core.injection import refuse_arrays
from optkit.core.types import DTypeLike
from optkit.method import Method

__all__ = ["in_blocks"]


def in_blocks_rule(rule: Rule, block_size: int) -> Rule:
    """Makes the rule of `in_blocks`; it draws for each block what the rule draws for a vector."""

    def encode(x, drawn):
        def of_block(_, x, drawn):
            return _narrow(rule.encode(x, drawn), block_size)

        drawn = Blocks(None, None) if drawn is None else drawn
        return _over_blocks(of_block, block_size, x.size, _split(x, block_size), drawn)

    def decode(sent, size, dtype):
        def of_block(size, sent):
            return rule.decode(_widen(sent), size, dtype)

        return _join(_over_blocks(of_block, block_size, size, sent), dtype)

    def combine(weights, rows, size, dtype):
        def of_block(size, rows):
            return combine_rows(rule, weights, _widen(rows), size, dtype)

        return _join(_over_blocks(of_block, block_size, size, rows, axes=1), dtype)

    def inner_products(rows, x):
        def of_block(_, rows, x):
            return inner_products_of_rows(rule, _widen(rows), x)

        blocks = _over_blocks(of_block, block_size, x.size, rows, _split(x, block_size), axes=(1, 0))
        products = [jnp.sum(x.reshape(-1, x.shape[-1]), axis=0) for x in jax.tree.leaves(blocks)]
        return functools.reduce(jnp.add, products)

    return Rule(
        encode,
        decode,
        delta=_worst_block(min, rule.delta, block_size),
        omega=_worst_block(max, rule.omega, block_size),
        draw=_draw_of_blocks(rule.draw, block_size),
        combine=combine,
        inner_products=inner_products,
        sums=_sums_of_blocks(rule.sums, block_size),
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


def _parts(size: int, block_size: int) -> tuple[int, int, int]:
    """Returns the size of a full block, the number of full blocks, and the size of a shorter last one."""
    block = max(min(size, block_size), 1)
    return block, *divmod(size, block)


def _over_blocks(function: Any, block_size: int, size: int, *sent: Any, axes: Any = 0) -> Blocks:
    """Maps a function of the size of a block and of what was sent of it, stacked along `axes`, or of its entries."""
    block, full, rest = _parts(size, block_size)
    of_full = jax.vmap(functools.partial(function, block), in_axes=axes)
    return Blocks(
        of_full(*(x.full for x in sent)) if full else None,
        function(rest, *(x.rest for x in sent)) if rest else None,
    )


def _join(blocks: Blocks, dtype: DTypeLike) -> jax.Array:
    return jnp.concatenate([jnp.zeros([0], dtype), *(x.ravel() for x in jax.tree.leaves(blocks))])


def _split(x: jax.Array, block_size: int) -> Blocks:
    block, full, rest = _parts(x.size, block_size)
    return Blocks(x[: x.size - rest].reshape(full, block), x[x.size - rest :])


def _worst_block(choose: Any, constant: Any, block_size: int) -> Any:
    """Makes the constant of a vector from that of a block."""
    if constant is None:
        return None

    def of_vector(size):
        block, _, rest = _parts(size, block_size)
        return choose(constant(part) for part in (block, rest) if part)

    return of_vector


def _draw_of_blocks(draw: Any, block_size: int) -> Any:
    """Makes the draws of blocks from those of a vector."""
    if draw is None:
        return None

    def of_vector(key, size, dtype):
        for_full, for_rest = jax.random.split(key)
        keys = Blocks(jax.random.split(for_full, max(size // block_size, 1)), for_rest)
        return _over_blocks(lambda size, key: draw(key, size, dtype), block_size, size, keys)

    return of_vector


def _sums_of_blocks(sums: Sums | None, block_size: int) -> Sums | None:
    """Makes the sums of blocks from those of a vector."""
    if sums is None:
        return None

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

        return _join(_over_blocks(of_block, block_size, size, summed, own), dtype)

    return Sums(addends, total)


def _narrow(sent: Any, block_size: int) -> Any:
    """Casts places in a block to 16 bits if these are enough."""
    if block_size > 2**16:
        return sent
    return map_entries(lambda x: x._replace(places=x.places.astype(jnp.uint16)), sent)


def _widen(sent: Any) -> Any:
    """Casts places to the dtype in which JAX counts; the number of entries of a block may not fit into 16 bits."""
    return map_entries(lambda x: x._replace(places=x.places.astype(jnp.int32)), sent)


METHODS = (
    Method(
        name="compressors.in_blocks",
        factory=in_blocks,
        kind="function",
        summary="Applies a compressor to each block of adjacent entries of a leaf by itself.",
        also_known_as=("buckets", "chunks", "block top-k", "block-wise scales"),
    ),
)
