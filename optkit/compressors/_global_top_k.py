"""Top-k over all leaves together, in a form with which windows of gradients can compute without decompressing it."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from optkit.compressors._compressor import Compressor
from optkit.compressors._leafwise import Entries
from optkit.core.checks import check_range
from optkit.core.injection import refuse_arrays
from optkit.core.linalg.explicit_axes import replicate, shard_like
from optkit.core.precision import scalar_dtype
from optkit.core.top_k import add, take, top_k
from optkit.core.types import DTypeLike
from optkit.method import Method

__all__ = ["global_top_k"]


def global_top_k(density: float | None = None, *, dtype: DTypeLike | None = None) -> Compressor:
    """Keeps the entries of largest magnitude of all leaves together, and sets the others to zero.

    Use it with `error_feedback`, or to keep a window of gradients in memory: inner products and sums are computed
    without decompressing. Avoid it when a whole gradient does not fit into the memory of one device, because leaves are
    gathered if mesh axes are explicit. A kept entry takes the bytes of its value and 4 bytes for its place.

    Args:
        density: Share of all entries that are kept, in (0, 1]. Default: None, which stands for 0.01. The number is
            rounded down, but at least one entry is kept.
        dtype: Dtype of the kept values. Default: None, that of the leaves, but at least float32. With 16 bits,
            `error_feedback` keeps what is rounded off.

    Returns:
        A `Compressor` to `Entries`, with places of 32 bits. Its delta is the share of entries that are kept.

    Raises:
        ValueError: If `density` is outside its range, or if a tree has more than 2**31 entries.

    Example:
        >>> import jax.numpy as jnp
        >>> compressor = global_top_k(0.5)
        >>> tree = {"a": jnp.array([1.0, -4.0]), "b": jnp.array([[3.0], [2.0]])}
        >>> entries, _ = compressor.compress(tree, compressor.init(tree))
        >>> entries.values.tolist(), entries.places.tolist()
        ([-4.0, 3.0], [1, 2])
        >>> jax.tree.map(jnp.ravel, compressor.decompress(entries, tree))
        {'a': Array([ 0., -4.], dtype=float32), 'b': Array([3., 0.], dtype=float32)}
    """
    refuse_arrays(density=density, dtype=dtype)
    check_range("density", density, 0.0, 1.0, low_open=True)
    share = 0.01 if density is None else density

    def number(size):
        return min(max(int(share * size), 1), size)

    def init(params):
        del params

    def compress(tree, state):
        flat = _flatten(tree)
        places = top_k(flat, number(flat.size))
        values = take(flat, places)
        return Entries(values if dtype is None else values.astype(dtype), places), state

    def decompress(entries, like):
        dtype = _wide_dtype(like)
        return _unflatten(add(jnp.zeros([_size(like)], dtype), entries.places, entries.values.astype(dtype)), like)

    def inner_products(rows, tree):
        flat = _flatten(tree)
        return jnp.sum(rows.values.astype(flat.dtype) * take(flat, rows.places), axis=-1)

    def combine(weights, rows, like):
        # One row after the other: otherwise a GPU would add entries of equal places in any order.
        def add_row(flat, weighted):
            weight, entries = weighted
            values = weight.astype(flat.dtype) * entries.values.astype(flat.dtype)
            # In a window that is not yet full there are entries of zero, all at place 0.
            return add(flat, entries.places, values, unique=False), None

        zeros = jnp.zeros([_size(like)], _wide_dtype(like))
        return _unflatten(jax.lax.scan(add_row, zeros, (weights, rows))[0], like)

    def delta(tree):
        size = _size(tree)
        return number(size) / size if size else 1.0

    return Compressor(init, compress, decompress, inner_products, combine, delta)


def _wide_dtype(tree: Any) -> Any:
    """Returns the dtype that holds all leaves, at least float32."""
    real = scalar_dtype(tree)
    if any(jnp.issubdtype(x.dtype, jnp.complexfloating) for x in jax.tree.leaves(tree)):
        return jnp.dtype(jnp.complex128 if real == jnp.float64 else jnp.complex64)
    return real


def _size(tree: Any) -> int:
    size = sum(x.size for x in jax.tree.leaves(tree))
    if size > 2**31:
        raise ValueError(
            f"global_top_k counts entries with 32 bits and got a tree of {size} entries: split it with optax.partition"
        )
    return size


def _flatten(tree: Any) -> jax.Array:
    """Returns all leaves as one vector, at least in float32."""
    dtype, _ = _wide_dtype(tree), _size(tree)
    return ravel_pytree(jax.tree.map(lambda x: replicate(x).astype(dtype), tree))[0]


def _unflatten(flat: jax.Array, like: Any) -> Any:
    """Returns the leaves from one vector, with the dtypes and explicit shardings of a tree."""
    _, unravel = ravel_pytree(jax.tree.map(lambda x: jnp.zeros(x.shape, flat.dtype), like))
    return jax.tree.map(lambda part, x: shard_like(part.astype(x.dtype), x), unravel(flat), like)


METHODS = (
    Method(
        name="compressors.global_top_k",
        factory=global_top_k,
        kind="function",
        summary="Keeps the entries of largest magnitude of all leaves together, and sets the others to zero.",
        also_known_as=("Top-k", "TopK"),
    ),
)
