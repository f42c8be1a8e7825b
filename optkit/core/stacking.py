"""Leaves of equal shape in one call: matrix methods compile once for each shape and not for each leaf."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def map_equal_shapes(function: Callable[[jax.Array], jax.Array], tree: Any) -> Any:
    """Maps a function over the leaves of a tree, those of equal shape, dtype and explicit sharding stacked.

    Args:
        function: of an array with a leading axis over leaves, which it keeps.
        tree: a tree of arrays.

    Returns:
        The tree of its results.

    Example:
        >>> map_equal_shapes(lambda x: x / jnp.sum(x, axis=1, keepdims=True), {"a": jnp.ones(2), "b": jnp.ones(2)})
        {'a': Array([0.5, 0.5], dtype=float32), 'b': Array([0.5, 0.5], dtype=float32)}
    """
    leaves, structure = jax.tree.flatten(tree)
    groups = {}
    for index, leaf in enumerate(leaves):
        groups.setdefault((leaf.shape, leaf.dtype, jax.typeof(leaf).sharding), []).append(index)
    results = dict[int, jax.Array]()
    for indices in groups.values():
        results |= zip(indices, function(jnp.stack([leaves[index] for index in indices])), strict=True)
    return structure.unflatten(results[index] for index in range(len(leaves)))
