"""Subspaces along coordinates: rows, columns or entries of a matrix; the projection is their indices."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from optkit.core.linalg.explicit_axes import replicate, shard_like
from optkit.core.precision import widen
from optkit.core.top_k import add, take
from optkit.memory_efficient._projector import (
    Projector,
    drawn,
    each_matrix,
    found_from_gradients,
    shard,
    spec_like,
)


def lines_projector(kind: str, number: Callable[[int], int]) -> Projector:
    """Chooses rows or columns.

    Args:
        kind: "rows", "columns", "uniform" or "topk", see `subspace_projector`.
        number: Returns the number of lines that are chosen, from the number of all lines.

    Returns:
        A `Projector`.
    """

    def axis_of(shape):
        m, n = shape[-2:]
        return {"rows": -2, "columns": -1}.get(kind, -2 if m >= n else -1)

    def size(shape):
        return number(shape[axis_of(shape)])

    def largest(gradients):
        axis = axis_of(gradients.shape)
        norms = jnp.linalg.norm(gradients, axis=-3 - axis)
        return jax.lax.top_k(replicate(norms), size(gradients.shape))[1]

    def draw(key, shape, dtype):
        del dtype
        return jax.random.permutation(key, shape[axis_of(shape)])[: size(shape)].astype(jnp.int32)

    def down(indices, x):
        take = functools.partial(_take_lines, axis_of(x.shape))
        return each_matrix(take, x.ndim - 2)(indices, widen(x))

    def up(indices, low, like):
        put = functools.partial(_put_lines, axis_of(like.shape))
        return each_matrix(put, like.ndim - 2)(indices, low, like)

    return Projector(
        is_empty=lambda shape: size(shape) == 0,
        is_whole=lambda shape: size(shape) == shape[axis_of(shape)],
        start=lambda matrix: _first(size(matrix.shape), matrix),
        find=found_from_gradients(largest) if kind == "topk" else drawn(draw),
        down=down,
        up=up,
        draws=kind != "topk",
    )


def entries_projector(number: Callable[[int], int]) -> Projector:
    """Chooses entries, by their places in the flattened matrix.

    Args:
        number: Returns the number of entries that are chosen, from the number of all entries.

    Returns:
        A `Projector`.
    """

    def size(shape):
        m, n = shape[-2:]
        return number(m * n)

    def draw(key, shape, dtype):
        del dtype
        m, n = shape
        return jax.random.permutation(key, m * n)[: size(shape)].astype(jnp.int32)

    def down(indices, matrix):
        return take(replicate(matrix).ravel(), indices)

    def up(indices, low, like):
        return shard_like(add(jnp.zeros([like.size], low.dtype), indices, low).reshape(like.shape), like)

    return Projector(
        is_empty=lambda shape: size(shape) == 0,
        is_whole=lambda shape: size(shape) == shape[-2] * shape[-1],
        start=lambda matrix: _first(size(matrix.shape), matrix),
        find=drawn(draw),
        down=lambda indices, x: each_matrix(down, x.ndim - 2)(indices, widen(x)),
        up=lambda indices, low, like: each_matrix(up, like.ndim - 2)(indices, low, like),
        draws=True,
    )


def _take_lines(axis: int, indices: jax.Array, matrix: jax.Array) -> jax.Array:
    sharding = _sharding_without(axis, matrix)
    return matrix.at[_lines(axis, indices)].get(out_sharding=sharding, unique_indices=True)


def _put_lines(axis: int, indices: jax.Array, low: jax.Array, like: jax.Array) -> jax.Array:
    sharding = _sharding_without(axis, like)
    # Each line looks up its own place, since XLA for CPUs scatters one number at a time.
    places = jnp.full([like.shape[axis]], -1, jnp.int32).at[indices].set(jnp.arange(indices.size, dtype=jnp.int32))
    chosen = jnp.expand_dims(places >= 0, -3 - axis)
    lines = low.at[_lines(axis, jnp.maximum(places, 0))].get(out_sharding=sharding)
    return shard_like(jnp.where(chosen, lines, 0), like)


def _lines(axis: int, indices: jax.Array) -> tuple[jax.Array | slice, ...]:
    return (indices,) if axis == -2 else (slice(None), indices)


def _sharding_without(axis: int, matrix: jax.Array) -> NamedSharding | None:
    return spec_like(matrix, *(None if each == axis else each for each in (-2, -1)))


def _first(count: int, matrix: jax.Array) -> jax.Array:
    indices = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), (*matrix.shape[:-2], count))
    return shard(indices, spec_like(matrix, None))
