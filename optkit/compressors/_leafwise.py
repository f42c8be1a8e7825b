"""Compressors out of rules for one leaf."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from optkit.compressors._compressor import Compressor, decompressing
from optkit.core.complex_numbers import refuse_complex
from optkit.core.keys import key_data, split
from optkit.core.linalg.explicit_axes import replicate, shard_like
from optkit.core.precision import widen
from optkit.core.types import AxisName, Key


class Rule(NamedTuple):
    """What a compressor does to one leaf, as a vector.

    Attributes:
        encode: gives what is sent from the vector and the draws, None of a rule without.
        decode: gives the vector from what was sent, its size and its dtype.
        delta: gives the constant of contraction for a vector of some size; None if there is none.
        omega: gives the constant of variance; None if there is none.
        draw: gives the draws for a vector of some size and dtype from a key.
    """

    encode: Callable[[jax.Array, Any], Any]
    decode: Callable[[Any, int, Any], jax.Array]
    delta: Callable[[int], float] | None = None
    omega: Callable[[int], float] | None = None
    draw: Callable[[jax.Array, int, Any], Any] | None = None


def leafwise(
    rule: Rule, key: Key | None = None, axis_name: AxisName | None = None, *, real: str | None = None
) -> Compressor:
    """Makes a compressor of a rule for one leaf.

    Args:
        rule: what it does to a leaf; sharded leaves are gathered where mesh axes are explicit.
        key: of a rule that draws, an integer or a JAX key.
        axis_name: the axis over workers, each of which then draws for itself; None (default) for equal draws. The state
            is equal on all workers either way.
        real: the public name of a compressor whose rule is for real numbers; None where complex ones may be compressed.

    Returns:
        The compressor, of a tree to a tree of what the rule makes of each leaf.

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
    """A constant for the leaves of a tree out of that for one leaf."""
    if constant is None:
        return None
    return lambda tree: choose([best, *(constant(x.size) for x in jax.tree.leaves(tree) if x.size)])
