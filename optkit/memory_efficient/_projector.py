"""Subspaces of a matrix's entries: how they are chosen, and the ways down into them and up again.

Shared by subspace momentum (Nguyen, Nguyen, 2024, arXiv:2411.07120), FRUGAL (Zmushko et al., 2024, arXiv:2411.07837)
and GaLore (Zhao et al., 2024, arXiv:2403.03507). Matrices have axes over separate matrices, if there are any, before
their rows and columns.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from optkit.core.precision import widen
from optkit.core.stacking import map_equal_shapes

__all__ = ["Projector"]

Find = Callable[[Any, Any, jax.Array, Any], Any]


class Projector(NamedTuple):
    """A way to choose subspaces, as functions.

    Attributes:
        is_empty: says of a matrix's shape whether its subspace has no dimension.
        is_whole: says of a matrix's shape whether its subspace is the whole space.
        start: gives a matrix's projection before the first gradient.
        find: gives a tree of new projections from the tree of gradients, that of the last projections, the number of
            subspaces found before, and a key, None unless `draws`.
        down: takes a projection and a matrix to the matrix's coordinates in the subspace.
        up: takes a projection, coordinates and a matrix to that part of the matrix, shaped and sharded like it.
        draws: whether `find` needs a key.
        of_matrices: whether it takes matrices; otherwise leaves as they are.
        of_vectors: whether a projection is a pair, columns on the left and rows on the right, None where there are
            none; otherwise it is one array. What such a projection leaves of a matrix is known up to rounding only.
    """

    is_empty: Callable[[tuple[int, ...]], bool]
    is_whole: Callable[[tuple[int, ...]], bool]
    start: Callable[[jax.Array], Any]
    find: Find
    down: Callable[[Any, jax.Array], jax.Array]
    up: Callable[[Any, jax.Array, jax.Array], jax.Array]
    draws: bool
    of_matrices: bool = True
    of_vectors: bool = False


def found_from_gradients(find: Callable[[jax.Array], Any]) -> Find:
    """Makes a tree's `find` of that of stacked matrices.

    A gradient that is not finite, or a factorization that is not, leaves the last projection in place.

    Args:
        find: gives the projections of gradients in float32 at least.

    Returns:
        `Projector.find`.
    """

    def find_all(gradients, projections, period, key):
        del period, key
        gradients = widen(gradients)

        def keep_finite(gradient, new, old):
            finite = jnp.all(jnp.isfinite(gradient))
            for part in jax.tree.leaves(new):
                finite &= jnp.all(jnp.isfinite(part))
            return jax.tree.map(lambda new, old: jnp.where(finite, _shard_as(new, old), old), new, old)

        return jax.tree.map(keep_finite, gradients, map_equal_shapes(find, gradients), projections)

    return find_all


def drawn(draw: Callable[[jax.Array, tuple[int, ...], Any], Any]) -> Find:
    """Makes a tree's `find` of a draw for one matrix.

    Args:
        draw: gives a projection from a key, the matrix's shape, and a dtype of 32 bits or more.

    Returns:
        `Projector.find`.
    """

    def find_all(gradients, projections, period, key):
        del period
        leaves, structure = jax.tree.flatten(gradients)
        keys = structure.unflatten(list(jax.random.split(key, len(leaves)))) if leaves else gradients

        def find(gradient, key, old):
            def draw_one(key):
                return draw(key, gradient.shape[-2:], jnp.promote_types(gradient.dtype, jnp.float32))

            batch = gradient.shape[:-2]
            draw_all = each_matrix(draw_one, len(batch))
            return jax.tree.map(_shard_as, draw_all(jax.random.split(key, batch) if batch else key), old)

        return jax.tree.map(find, gradients, keys, projections)

    return find_all


def each_matrix(function: Callable[..., Any], axes: int) -> Callable[..., Any]:
    """Maps a function of one matrix over so many axes over separate matrices, the first ones of all arguments."""
    for _ in range(axes):
        function = jax.vmap(function)
    return function


def spec_like(matrix: jax.Array, *axes: int | None) -> NamedSharding | None:
    """Gives the sharding of an array with a matrix's axes over separate matrices and others behind them.

    Args:
        matrix: what is sharded, or not, over explicit mesh axes.
        *axes: for each axis behind, the axis of the matrix that it is sharded like, -1 or -2, or None.

    Returns:
        The sharding, None where the matrix is not sharded.
    """
    sharding = jax.typeof(matrix).sharding
    if all(axis is None for axis in sharding.spec):
        return None
    behind = (None if axis is None else sharding.spec[axis] for axis in axes)
    return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[:-2], *behind))


def shard(x: jax.Array, sharding: NamedSharding | None) -> jax.Array:
    """Shards an array over explicit mesh axes; leaves it as it is where there are none."""
    return x if sharding is None else jax.sharding.reshard(x, sharding)


def _shard_as(x: jax.Array, like: jax.Array) -> jax.Array:
    """Gives an array the explicit sharding of another one, be it none."""
    ours, theirs = jax.typeof(x).sharding, jax.typeof(like).sharding
    return x if ours.spec == theirs.spec else jax.sharding.reshard(x, theirs)
