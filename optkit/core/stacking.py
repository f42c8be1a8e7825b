"""Leaves of equal shape in one call: matrix methods compile once for each shape and not for each leaf."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Stacks of one size are one program to XLA. Taking a leaf out of a larger stack would be another one for each leaf.
_LARGEST_STACK = 8


def map_equal_shapes(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Maps a function over the leaves of trees, up to eight of equal shape, dtype and explicit sharding in a stack.

    Args:
        function: of arrays with a leading axis over leaves, which it keeps; it gives such an array, or a tree of them.
        tree: a tree of arrays.
        *rest: further trees of its structure. Leaves that are no arrays must be hashable: the function gets them as
            they are, and only leaves for which they are equal share a call.

    Returns:
        The tree of its results, one for each leaf.

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
    """Turns a tree of tuples into a tuple of trees; unlike `jax.tree.transpose` it takes trees without leaves.

    Args:
        like: a tree that has a leaf where `tree` has a tuple.
        tree: the tree of tuples.
        width: the length of these.

    Returns:
        The trees of first entries, of second entries, and so on.

    Example:
        >>> unzip({"a": 0, "b": 0}, {"a": (1, 2), "b": (3, 4)}, 2)
        ({'a': 1, 'b': 3}, {'a': 2, 'b': 4})
    """
    return tuple(jax.tree.map(lambda _, entries, i=i: entries[i], like, tree) for i in range(width))


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _kind(leaf: Any) -> Any:
    return (leaf.shape, leaf.dtype, jax.typeof(leaf).sharding) if _is_array(leaf) else leaf
