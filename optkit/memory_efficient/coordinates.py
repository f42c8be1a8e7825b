"""Subspaces along coordinates: rows, columns or entries of a matrix, by their indices, or whole leaves."""

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from optkit.core.checks import check_range
from optkit.core.explicit_axes import replicate, shard_like
from optkit.core.precision import widen
from optkit.memory_efficient.matrices import as_matrix, matrix_shape
from optkit.memory_efficient.projector import Projector, for_each_leaf, reshape_like, sharding_along

BlockOrder = Literal["random", "ascending", "descending", "mirror"]


def lines_projector(kind: str, number: Callable[[int], int]) -> Projector:
    """Takes rows or columns, whose indices are the projection."""

    def axis_of(shape):
        m, n = matrix_shape(shape)
        return {"rows": 0, "columns": 1}.get(kind, 0 if m >= n else 1)

    def size(shape):
        return number(matrix_shape(shape)[axis_of(shape)])

    def find(gradient, key):
        axis = axis_of(gradient.shape)
        if kind == "topk":
            norms = jnp.linalg.norm(gradient, axis=1 - axis)
            return jax.lax.top_k(norms, size(gradient.shape))[1]
        return jax.random.permutation(key, gradient.shape[axis])[: size(gradient.shape)].astype(jnp.int32)

    def down(indices, x):
        axis = axis_of(x.shape)
        matrix = as_matrix(widen(x))
        place = (slice(None),) * axis + (indices,)
        return matrix.at[place].get(out_sharding=sharding_along(matrix, 1 - axis), unique_indices=True)

    def up(indices, low, like):
        axis = axis_of(like.shape)
        zeros = jnp.zeros_like(as_matrix(like), low.dtype)
        sharding = sharding_along(zeros, 1 - axis)
        zeros = zeros if sharding is None else jax.sharding.reshard(zeros, sharding)
        place = (slice(None),) * axis + (indices,)
        return reshape_like(zeros.at[place].set(low, unique_indices=True), like)

    return Projector(
        is_empty=lambda shape: size(shape) == 0,
        is_whole=lambda shape: size(shape) == matrix_shape(shape)[axis_of(shape)],
        start=lambda leaf: jnp.arange(size(leaf.shape), dtype=jnp.int32),
        find=for_each_leaf(find, kind != "topk"),
        down=down,
        up=up,
        draws=kind != "topk",
    )


def entries_projector(number: Callable[[int], int]) -> Projector:
    """Takes entries, whose places in the flattened leaf are the projection."""

    def find(gradient, key):
        return jax.random.permutation(key, gradient.size)[: number(gradient.size)].astype(jnp.int32)

    def size(shape):
        m, n = matrix_shape(shape)
        return number(m * n)

    def up(indices, low, like):
        flat = jnp.zeros([like.size], low.dtype).at[indices].set(low, unique_indices=True)
        return shard_like(flat.reshape(like.shape), like)

    return Projector(
        is_empty=lambda shape: size(shape) == 0,
        is_whole=lambda shape: size(shape) == matrix_shape(shape)[0] * matrix_shape(shape)[1],
        start=lambda leaf: jnp.arange(size(leaf.shape), dtype=jnp.int32),
        find=for_each_leaf(find, draws=True),
        down=lambda indices, x: replicate(widen(x)).ravel()[indices],
        up=up,
        draws=True,
    )


def block_projector(density: float, order: BlockOrder = "random") -> Projector:
    """Chooses whole leaves: some are the subspace, the others have no part in it.

    Under `jit` all leaves keep the state that they need when they are chosen: this saves arithmetic on no device and
    memory only where states of zeros are. To save memory, choose the leaves outside `jit` with `optax.partition`, and
    initialise anew for each choice.

    Args:
        density: share of the leaves that are chosen at a time, in [0, 1]; their number is rounded, to even in doubt.
        order: which come next: `"random"` (default); `"ascending"`, in the order of the tree; `"descending"`, from its
            last on; `"mirror"`, forwards and backwards in turn. The last three begin anew at the end.

    Returns:
        A `Projector`, whose projections are booleans.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> projector = optkit.block_projector(0.5, "descending")
        >>> tree = {"a": jnp.ones(2), "b": jnp.ones(2)}
        >>> projector.find(tree, None, jnp.array(0), None)
        {'a': Array(False, dtype=bool), 'b': Array(True, dtype=bool)}
    """
    check_range("density", density, 0.0, 1.0)
    if order not in get_args(BlockOrder):
        raise ValueError(f"order must be one of {', '.join(map(repr, get_args(BlockOrder)))}, got {order!r}")

    def find(gradients, projections, period, key):
        del projections
        leaves, structure = jax.tree.flatten(gradients)
        total = max(len(leaves), 1)
        active = round(len(leaves) * density)
        if order == "random":
            chosen = jax.random.permutation(key, len(leaves)) < active
        else:
            passes = period * active // total
            backwards = passes % 2 == 1 if order == "mirror" else order == "descending"
            places = jnp.arange(len(leaves))
            places = jnp.where(backwards, places[::-1], places)
            chosen = (places - period * active) % total < active
        return structure.unflatten([chosen[index] for index in range(len(leaves))])

    return Projector(
        is_empty=lambda _: False,
        is_whole=lambda _: False,
        start=lambda _: jnp.zeros([], bool),
        find=find,
        down=lambda active, x: jnp.where(active, x, 0),
        up=lambda active, low, _: jnp.where(active, low, 0),
        draws=order == "random",
    )
