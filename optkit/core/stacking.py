"""Leaves of equal shape in one call, so that methods for matrices compile once per shape and not once per leaf."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# XLA compiles one program for all stacks of a size. To take a leaf from a larger stack, it would need one per leaf.
_LARGEST_STACK = 8


def map_equal_shapes(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Maps a function over the leaves of trees, up to eight of equal shape, dtype and explicit sharding in a stack.

    Args:
        function: A function of arrays with a leading axis over leaves, which returns an array with that axis, or a tree
            of such arrays.
        tree: A tree of arrays.
        *rest: Further trees of the same structure. Leaves that are not arrays must be hashable. The function receives
            them as they are, and only leaves for which they are equal share a call.

    Returns:
        The tree of results, one per leaf.

    Example:
        >>> map_equal_shapes(lambda x: x / jnp.sum(x, axis=1, keepdims=True), {"a": jnp.ones(2), "b": jnp.ones(2)})
        {'a': Array([0.5, 0.5], dtype=float32), 'b': Array([0.5, 0.5], dtype=float32)}
        >>> map_equal_shapes(lambda x, factor: factor * x, {"a": jnp.ones(2)}, {"a": 3})
        {'a': Array([3., 3.], dtype=float32)}
    """
    leaves, structure = jax.tree.flatten(tree)
    rows = list(zip(leaves, *(structure.flatten_up_to(other) for other in rest), strict=True))
    groups = {}
    for index, row in enumerate(rows):
        groups.setdefault(tuple(map(_kind, row)), []).append(index)
    results = dict[int, Any]()
    stacks = (
        indices[start : start + _LARGEST_STACK]
        for indices in groups.values()
        for start in range(0, len(indices), _LARGEST_STACK)
    )
    for indices in stacks:
        columns = zip(*(rows[index] for index in indices), strict=True)
        stacked = function(*(jnp.stack(column) if _is_array(column[0]) else column[0] for column in columns))
        parts, inner = jax.tree.flatten(stacked)
        results |= zip(indices, map(inner.unflatten, zip(*parts, strict=True)), strict=True)
    return structure.unflatten(results[index] for index in range(len(leaves)))


def unzip(like: Any, tree: Any, width: int) -> tuple[Any, ...]:
    """Turns a tree of tuples into a tuple of trees. Unlike `jax.tree.transpose`, it accepts trees without leaves.

    Args:
        like: A tree that has a leaf where `tree` has a tuple.
        tree: The tree of tuples.
        width: The length of the tuples.

    Returns:
        The tree of first entries, the tree of second entries, and so on.

    Example:
        >>> unzip({"a": 0, "b": 0}, {"a": (1, 2), "b": (3, 4)}, 2)
        ({'a': 1, 'b': 3}, {'a': 2, 'b': 4})
    """
    return tuple(jax.tree.map(lambda _, entries, i=i: entries[i], like, tree) for i in range(width))


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _kind(leaf: Any) -> Any:
    return (leaf.shape, leaf.dtype, jax.typeof(leaf).sharding) if _is_array(leaf) else leaf
