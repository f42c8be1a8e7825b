"""Subspaces of a matrix's entries: how they are chosen, and the maps to coordinates in them and back.

Shared by subspace momentum (Nguyen, Nguyen, 2024, arXiv:2411.07120), FRUGAL (Zmushko et al., 2024, arXiv:2411.07837)
and GaLore (Zhao et al., 2024, arXiv:2403.03507). Axes that count matrices, if there are any, come before the rows and
columns.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from optkit.core.non_finite import finite_along
from optkit.core.precision import widen
from optkit.core.stacking import map_equal_shapes

__all__ = ["Projector"]

Find = Callable[[Any, Any, jax.Array, Any], Any]


class Projector(NamedTuple):
    """A way to choose subspaces, as a tuple of functions.

    Attributes:
        is_empty: Function of a matrix's shape: whether its subspace has dimension zero.
        is_whole: Function of a matrix's shape: whether its subspace is the whole space.
        start: Function of a matrix that returns its projection before the first gradient.
        find: Function that returns a tree of new projections. Its arguments are the tree of gradients, the tree of the
            last projections, the number of subspaces found before, and a key (None unless `draws` is True).
        down: Function of a projection and a matrix that returns the matrix's coordinates in the subspace.
        up: Function of a projection, coordinates and a matrix that maps the coordinates back to an array with the shape
            and sharding of the matrix.
        draws: Whether `find` needs a key.
        of_matrices: Whether the functions take matrices. If it is False, they take leaves as they are.
        of_vectors: Whether a projection is a pair, of columns on the left and rows on the right, with None on a side
            without vectors. If it is False, a projection is one array. With vectors, the part of a matrix outside its
            subspace is known only up to rounding.
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
    """Makes the `find` of a projector from a function of stacked matrices.

    If a gradient or its factorization is not finite, the last projection is kept.

    Args:
        find: Returns the projections of stacked gradients, which are at least in float32.

    Returns:
        The function for `Projector.find`.
    """

    # The check is on whole stacks, since XLA compiles every reduction of a leaf by itself.
    def find_and_check(gradients):
        new = find(gradients)
        finite_rows = [finite_along(x, tuple(range(1, x.ndim))) for x in (gradients, *jax.tree.leaves(new))]
        finite = functools.reduce(jnp.logical_and, finite_rows)
        return new, finite

    def find_all(gradients, projections, period, key):
        del period, key
        found = map_equal_shapes(find_and_check, widen(gradients))

        def keep_finite(old, found):
            new, finite = found
            return jax.tree.map(lambda new, old: jnp.where(finite, _shard_as(new, old), old), new, old)

        return jax.tree.map(lambda _, *pair: keep_finite(*pair), gradients, projections, found)

    return find_all


def drawn(draw: Callable[[jax.Array, tuple[int, ...], Any], Any]) -> Find:
    """Makes the `find` of a projector from a random draw for one matrix.

    Args:
        draw: Returns a projection, from a key, the shape of the matrix, and a dtype of at least 32 bits.

    Returns:
        The function for `Projector.find`.
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
    """Maps a function of one matrix over the first `axes` axes of all its arguments, which count matrices."""
    for _ in range(axes):
        function = jax.vmap(function)
    return function


def spec_like(matrix: jax.Array, *axes: int | None) -> NamedSharding | None:
    """Returns the sharding of an array that has a matrix's axes over separate matrices, followed by other axes.

    Args:
        matrix: The matrix, which may be sharded over explicit mesh axes.
        *axes: For each axis that follows: the axis of the matrix whose sharding it has, -1 or -2, or None.

    Returns:
        The sharding; None if the matrix is not sharded.
    """
    sharding = jax.typeof(matrix).sharding
    if all(axis is None for axis in sharding.spec):
        return None
    behind = (None if axis is None else sharding.spec[axis] for axis in axes)
    return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[:-2], *behind))


def shard(x: jax.Array, sharding: NamedSharding | None) -> jax.Array:
    """Shards an array over explicit mesh axes; returns it unchanged if `sharding` is None."""
    return x if sharding is None else jax.sharding.reshard(x, sharding)


def _shard_as(x: jax.Array, like: jax.Array) -> jax.Array:
    """Gives an array the explicit sharding of another one, or removes its sharding if the other has none."""
    ours, theirs = jax.typeof(x).sharding, jax.typeof(like).sharding
    return x if ours.spec == theirs.spec else jax.sharding.reshard(x, theirs)
