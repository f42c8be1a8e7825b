"""Subspaces of a matrix's entries: how they are chosen, and the ways down into them and up again.

Shared by subspace momentum (Nguyen, Nguyen, 2024, arXiv:2411.07120), FRUGAL (Zmushko et al., 2024, arXiv:2411.07837)
and GaLore (Zhao et al., 2024, arXiv:2403.03507).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from optkit.core.explicit_axes import replicate, shard_like
from optkit.core.precision import widen
from optkit.memory_efficient.matrices import as_matrix


class Projector(NamedTuple):
    """A way to choose subspaces, as functions; a projection is an array, or a tuple of arrays.

    Attributes:
        is_empty: says of a leaf's shape whether its subspace has no dimension.
        is_whole: says of a leaf's shape whether its subspace is the whole space.
        start: gives a leaf's projection before the first gradient.
        find: gives a tree of new projections from the tree of gradients, that of the last projections, the number of
            subspaces found before, and a key, None unless `draws`.
        down: takes a projection and a leaf to the leaf's coordinates in the subspace.
        up: takes a projection, coordinates and a leaf to that part of the leaf, shaped and sharded like it.
        draws: whether `find` needs a key.
    """

    is_empty: Callable[[tuple[int, ...]], bool]
    is_whole: Callable[[tuple[int, ...]], bool]
    start: Callable[[jax.Array], Any]
    find: Callable[[Any, Any, jax.Array, Any], Any]
    down: Callable[[Any, jax.Array], jax.Array]
    up: Callable[[Any, jax.Array, jax.Array], jax.Array]
    draws: bool


def for_each_leaf(find: Callable[[jax.Array, Any], Any], draws: bool) -> Callable[[Any, Any, jax.Array, Any], Any]:
    """Makes a tree's `find` of that of a matrix; what is not finite does not replace the last projection."""

    def find_all(gradients, projections, period, key):
        del period
        leaves, structure = jax.tree.flatten(gradients)
        keys = jax.random.split(key, len(leaves)) if draws and leaves else [None] * len(leaves)
        found = [find(replicate(as_matrix(widen(g))), key) for g, key in zip(leaves, keys, strict=True)]

        def keep_finite(new, old):
            return jnp.where(jnp.all(jnp.isfinite(new)), new, old)

        return jax.tree.map(keep_finite, structure.unflatten(found), projections)

    return find_all


def sharding_along(matrix: jax.Array, *kept: int) -> NamedSharding | None:
    """The sharding of a matrix of which some axes stay and the others are replaced; None off explicit mesh axes."""
    sharding = jax.typeof(matrix).sharding
    if all(axis is None for axis in sharding.spec):
        return None
    return NamedSharding(
        sharding.mesh, PartitionSpec(*(axis if place in kept else None for place, axis in enumerate(sharding.spec)))
    )


def reshape_like(matrix: jax.Array, like: jax.Array) -> jax.Array:
    """Gives a matrix the shape and explicit sharding of the leaf that it is a view of."""
    return shard_like(matrix.reshape(like.shape), like)
