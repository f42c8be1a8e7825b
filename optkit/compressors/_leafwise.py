"""Compressors made of a rule for one leaf, and what these rules share; codes are packed bit by bit.

Random draws and results are the same as in the code of the EF21-W experiments (`quant.py` of Sokolov, after Horváth's).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optkit.compressors._compressor import Compressor, decompressing
from optkit.core.complex_numbers import refuse_complex
from optkit.core.keys import key_data, split
from optkit.core.linalg.explicit_axes import replicate, shard_like
from optkit.core.precision import widen
from optkit.core.top_k import add
from optkit.core.types import AxisName, DTypeLike, Key


class Rule(NamedTuple):
    """What a compressor does to one leaf, as a vector.

    Attributes:
        encode: Returns what is sent, from the vector and the draws (None for a rule without draws).
        decode: Returns the vector, from what was sent, its size and its dtype.
        delta: Returns the constant of contraction for a vector of a given size; None if there is none.
        omega: Returns the constant of variance for a vector of a given size; None if there is none.
        draw: Returns the draws for a vector of a given size and dtype, from a key; None for a rule without draws.
    """

    encode: Callable[[jax.Array, Any], Any]
    decode: Callable[[Any, int, Any], jax.Array]
    delta: Callable[[int], float] | None = None
    omega: Callable[[int], float] | None = None
    draw: Callable[[jax.Array, int, Any], Any] | None = None


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

    def require_real(tree):
        if real is not None:
            refuse_complex(tree, real, functions=True)

    def init(params):
        require_real(params)
        return None if key is None else key_data(key)

    def compress(tree, state):
        require_real(tree)
        leaves, structure = jax.tree.flatten(tree)
        draws: list[Any] = [None] * len(leaves)
        if rule.draw is not None and key is not None:
            state, fresh = split(state, key)
            if axis_name is not None:
                fresh = jax.random.fold_in(fresh, jax.lax.axis_index(axis_name))
            draws = [rule.draw(jax.random.fold_in(fresh, i), x.size, widen(x).dtype) for i, x in enumerate(leaves)]
        sent = [rule.encode(replicate(x).ravel(), drawn) for x, drawn in zip(leaves, draws, strict=True)]
        return structure.unflatten(sent), state

    def decompress(compressed, like):
        def leaf(x, sent):
            return shard_like(rule.decode(sent, x.size, x.dtype).reshape(x.shape), x)

        return jax.tree.map(leaf, like, compressed)

    return decompressing(init, compress, decompress, delta=_worst(min, rule.delta, 1), omega=_worst(max, rule.omega, 0))


def _worst(
    choose: Callable[..., float], constant: Callable[[int], float] | None, best: float
) -> Callable[[Any], float] | None:
    """Makes the constant of a tree from that of one leaf."""
    if constant is None:
        return None
    return lambda tree: choose([best, *(constant(x.size) for x in jax.tree.leaves(tree) if x.size)])


class Entries(NamedTuple):
    """Some entries of a tree, where all others are zero.

    Attributes:
        values: The entries.
        places: Their places in the flattened leaf, or in the vector of all leaves one after another.
    """

    values: jax.Array
    places: jax.Array


class Codes(NamedTuple):
    """A vector as integers of few bits, in units of a scale.

    Attributes:
        codes: Packed bytes.
        scale: A scalar, at least in float32.
    """

    codes: jax.Array
    scale: jax.Array


def number_kept(size: int, density: float, *, round_up: bool) -> int:
    """Returns how many of `size` entries are kept: a share of them, but at least one if there is one."""
    return min(max((math.ceil if round_up else math.floor)(density * size), 1), size)


def draw_uniform(key: jax.Array, size: int, dtype: DTypeLike) -> jax.Array:
    """Draws a number from 0 to 1 for each entry."""
    return jax.random.uniform(key, (size,), dtype)


def as_it_came(sent: jax.Array, size: int, dtype: DTypeLike) -> jax.Array:
    """Returns the vector that was sent without encoding."""
    del size
    return sent.astype(dtype)


def decode_entries(sent: Entries, size: int, dtype: DTypeLike) -> jax.Array:
    """Puts entries back in their places."""
    return add(jnp.zeros([size], dtype), sent.places, sent.values.astype(dtype))


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
    largest = jnp.max(jnp.abs(x), initial=0)
    unit = jnp.abs(x) / jnp.where(largest > 0, largest, 1)
    norm = jnp.linalg.norm(unit, order) if x.size else largest
    return largest * norm, unit / jnp.where(norm > 0, norm, 1)
