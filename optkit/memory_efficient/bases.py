"""Subspaces along orthonormal vectors, on the left of a matrix, on its right, or on both sides.

A projection is a pair: columns `(m, r)` on the left and rows `(r, n)` on the right, None where there are none.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from optkit.core.precision import widen
from optkit.memory_efficient.matrices import as_matrix, matrix_shape
from optkit.memory_efficient.projector import Projector, for_each_leaf, reshape_like, sharding_along

Side = Literal["std", "reverse_std", "left", "right", "full"]


def basis_projector(kind: str, side: Side, number: Callable[[int], int]) -> Projector:
    """Projects onto orthonormal vectors.

    Args:
        kind: `"svd"`, `"random"` or `"randperm"`.
        side: as in `subspace_projector`.
        number: gives the dimension of a subspace of a space from its dimension.

    Returns:
        A `Projector`.
    """
    sizes = functools.partial(_sizes, kind, side, number)
    find = _singular_vectors if kind == "svd" else functools.partial(_random_vectors, kind)
    return Projector(
        is_empty=lambda shape: 0 in sizes(shape),
        is_whole=lambda shape: all(
            r in (None, whole) for r, whole in zip(sizes(shape), matrix_shape(shape), strict=True)
        ),
        start=lambda leaf: _first_coordinates(leaf, sizes(leaf.shape)),
        find=for_each_leaf(lambda gradient, key: find(gradient, key, sizes(gradient.shape)), draws=kind != "svd"),
        down=_down,
        up=_up,
        draws=kind != "svd",
    )


def _sizes(
    kind: str, side: Side, number: Callable[[int], int], shape: tuple[int, ...]
) -> tuple[int | None, int | None]:
    """Numbers of vectors on the left and on the right."""
    m, n = matrix_shape(shape)
    most = min(m, n) if kind == "svd" else max(m, n)
    on_the_right = side in ("right", "full") or side == ("std" if m >= n else "reverse_std")
    on_the_left = side == "full" or not on_the_right
    return (min(number(m), most) if on_the_left else None), (min(number(n), most) if on_the_right else None)


def _first_coordinates(leaf: jax.Array, sizes: tuple[int | None, int | None]) -> Any:
    m, n = matrix_shape(leaf.shape)
    left, right = sizes
    dtype = jnp.promote_types(leaf.dtype, jnp.float32)
    return (
        None if left is None else jnp.eye(m, left, dtype=dtype),
        None if right is None else jnp.eye(right, n, dtype=dtype),
    )


def _singular_vectors(gradient: jax.Array, key: None, sizes: tuple[int | None, int | None]) -> Any:
    del key
    left, right = sizes
    u, _, vh = jnp.linalg.svd(gradient, full_matrices=False)
    return (None if left is None else u[:, :left]), (None if right is None else vh[:right])


def _random_vectors(kind: str, gradient: jax.Array, key: jax.Array, sizes: tuple[int | None, int | None]) -> Any:
    def rows(key, size, whole):
        if kind == "random":
            return jax.nn.initializers.orthogonal()(key, (size, whole), gradient.dtype)
        return jax.nn.one_hot(jax.random.permutation(key, whole)[:size], whole, dtype=gradient.dtype)

    m, n = gradient.shape
    left, right = sizes
    left_key, right_key = jax.random.split(key)
    return None if left is None else rows(left_key, left, m).T, None if right is None else rows(right_key, right, n)


def _down(projection: Any, x: jax.Array) -> jax.Array:
    left, right = projection
    low = as_matrix(widen(x))
    if left is not None:
        low = jnp.einsum("mr,mn->rn", left, low, out_sharding=sharding_along(low, 1))
    if right is not None:
        low = jnp.einsum("mn,rn->mr", low, right, out_sharding=sharding_along(low, 0))
    return low


def _up(projection: Any, low: jax.Array, like: jax.Array) -> jax.Array:
    left, right = projection
    matrix = as_matrix(like)
    if right is not None:
        sharding = sharding_along(matrix, 0, 1) if left is None else sharding_along(matrix, 1)
        low = jnp.einsum("mr,rn->mn", low, right, out_sharding=sharding)
    if left is not None:
        low = jnp.einsum("mr,rn->mn", left, low, out_sharding=sharding_along(matrix, 0, 1))
    return reshape_like(low, like)
