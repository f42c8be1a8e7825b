"""Orthogonalizes the rows or columns of a matrix with the largest entries, and no others."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec


def orthogonalize_largest(
    matrices: jax.Array, axis: int, fraction: float, orthogonalize: Callable[[jax.Array], jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Orthogonalizes the slices of matrices with the largest sums of absolute values, and no others.

    The slices are those of the whole matrix, however it is sharded. Only the selected slices are sent along their axis.

    Args:
        matrices: One matrix, or several along leading axes.
        axis: Which slices: -2 for the indices of the first axis of a matrix, -1 for those of the second.
        fraction: Share of the slices, in (0, 1], rounded up. If several are equal, the first ones are taken.
        orthogonalize: A function that orthogonalizes stacked matrices.

    Returns:
        The orthogonalized slices in their places among zeros; and booleans that say which slices these are, with the
        other axis of size one.

    Example:
        >>> from optkit.core.linalg.newton_schulz import polar_express
        >>> matrix = jnp.array([[1.0, 0.0], [0.0, 2.0]])
        >>> direction, selected = orthogonalize_largest(matrix, -2, 0.5, polar_express)
        >>> jnp.diag(direction).round(2), selected.tolist()
        (Array([0. , 0.9], dtype=float32), [[False], [True]])
    """
    other = -3 - axis
    size = matrices.shape[axis]
    count = math.ceil(fraction * size)
    spec = jax.typeof(matrices).sharding.spec
    sums = _reshard_last_axis(jnp.sum(jnp.abs(matrices), axis=other), None)
    order = jnp.argsort(sums, axis=-1, stable=True, descending=True)
    place = jnp.argsort(order, axis=-1)
    chosen = orthogonalize(_take(matrices, order[..., :count], axis, None))
    spread = _take(chosen, jnp.minimum(place, count - 1), axis, spec[axis])
    selected = jnp.expand_dims(_reshard_last_axis(place < count, spec[axis]), other)
    return jnp.where(selected, spread, 0), selected


def _take(x: jax.Array, indices: jax.Array, axis: int, mesh_axis: Any) -> jax.Array:
    """Takes slices of each matrix; on explicit mesh axes it shards them along `mesh_axis`."""
    indices = jnp.expand_dims(indices, -3 - axis)

    def take(x, indices):
        return jnp.take_along_axis(x, indices, axis, mode="promise_in_bounds")

    sharding = jax.typeof(x).sharding
    spec = [*sharding.spec]
    spec[axis] = mesh_axis
    if all(name is None for name in (*sharding.spec, *spec)):
        return take(x, indices)
    out_sharding = NamedSharding(sharding.mesh, PartitionSpec(*spec))
    on_automatic_axes: Any = jax.sharding.auto_axes(take, out_sharding=out_sharding)
    return on_automatic_axes(x, indices)


def _reshard_last_axis(x: jax.Array, mesh_axis: Any) -> jax.Array:
    """Shards the last axis along a mesh axis, or along none."""
    sharding = jax.typeof(x).sharding
    if sharding.spec[-1] == mesh_axis:
        return x
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[:-1], mesh_axis)))
