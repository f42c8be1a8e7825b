"""Compressors over all leaves of a tree together, as one vector."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from optkit.compressors._compressor import Compressor, Sums
from optkit.core.injection import refuse_arrays
from optkit.core.linalg.explicit_axes import replicate, shard_like
from optkit.core.precision import scalar_dtype
from optkit.method import Method

__all__ = ["on_whole_tree"]


def on_whole_tree(compressor: Compressor) -> Compressor:
    """Applies a compressor to the vector of all leaves, one after another.

    Use it to compare entries of different leaves, as in `global_top_k`, to draw them from the whole tree (rand-k), or
    to send one scale instead of one for each leaf. Avoid it with a scale if the gradients of some leaves are much
    smaller than those of others, and when a whole gradient does not fit into the memory of one device, because leaves
    are gathered if mesh axes are explicit.

    Args:
        compressor: The compressor, for example `top_k(0.01)` or `in_blocks(scaled_sign())`. It gets a vector in the
            widest dtype of the leaves, at least float32.

    Returns:
        A `Compressor` whose compressed form, and whose constants, are those of a tree of this one vector.

    Example:
        >>> import jax.numpy as jnp
        >>> from optkit.compressors import top_k
        >>> compressor = on_whole_tree(top_k(0.5))
        >>> tree = {"a": jnp.array([1.0, -4.0]), "b": jnp.array([[3.0], [2.0]])}
        >>> entries, _ = compressor.compress(tree, compressor.init(tree))
        >>> entries.values.tolist(), entries.places.tolist()
        ([-4.0, 3.0], [1, 2])
    """
    refuse_arrays(compressor=compressor)
    sums, change_rule = compressor.sums, compressor.change_rule

    def constant(of_tree):
        return None if of_tree is None else lambda tree: of_tree(_shape(tree))

    return Compressor(
        init=lambda params: compressor.init(_zeros(params)),
        compress=lambda tree, state: compressor.compress(_flatten(tree), state),
        decompress=lambda compressed, like: _unflatten(compressor.decompress(compressed, _zeros(like)), like),
        inner_products=lambda rows, tree: compressor.inner_products(rows, _flatten(tree)),
        combine=lambda weights, rows, like: _unflatten(compressor.combine(weights, rows, _zeros(like)), like),
        delta=constant(compressor.delta),
        omega=constant(compressor.omega),
        sums=None if sums is None else _sums_of_vector(sums),
        change_rule=None
        if change_rule is None
        else lambda *change, **real: on_whole_tree(change_rule(*change, **real)),
    )


def _sums_of_vector(sums: Sums) -> Sums:
    def total(summed, own, like):
        return _unflatten(sums.total(summed, own, _zeros(like)), like)

    return Sums(sums.addends, total)


def _shape(tree: Any) -> jax.ShapeDtypeStruct:
    """Returns the shape of the vector of all leaves, and the dtype that holds all of them, at least float32."""
    leaves, dtype = jax.tree.leaves(tree), scalar_dtype(tree)
    if any(jnp.issubdtype(x.dtype, jnp.complexfloating) for x in leaves):
        dtype = jnp.dtype(jnp.complex128 if dtype == jnp.float64 else jnp.complex64)
    return jax.ShapeDtypeStruct((sum(x.size for x in leaves),), dtype)


def _zeros(tree: Any) -> jax.Array:
    return jnp.zeros_like(_shape(tree))


def _flatten(tree: Any) -> jax.Array:
    """Returns all leaves as one vector."""
    dtype = _shape(tree).dtype
    return ravel_pytree(jax.tree.map(lambda x: replicate(x).astype(dtype), tree))[0].astype(dtype)


def _unflatten(flat: jax.Array, like: Any) -> Any:
    """Returns the leaves from one vector, with the dtypes and explicit shardings of a tree."""
    _, unravel = ravel_pytree(jax.tree.map(lambda x: jnp.zeros(x.shape, flat.dtype), like))
    return jax.tree.map(lambda x, y: shard_like(y.astype(x.dtype), x), like, unravel(flat))


METHODS = (
    Method(
        name="compressors.on_whole_tree",
        factory=on_whole_tree,
        kind="function",
        summary="Applies a compressor to the vector of all leaves of a tree.",
        also_known_as=("global sparsification", "global rand-k", "global sign"),
    ),
)
