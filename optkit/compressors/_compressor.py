"""The type of compressors, and the one that looks at all leaves together."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from optkit.core.checks import check_range
from optkit.core.injection import refuse_arrays
from optkit.core.linalg.explicit_axes import replicate, shard_like
from optkit.core.precision import scalar_dtype, widen
from optkit.core.top_k import add, take, top_k
from optkit.core.types import DTypeLike


class Compressor(NamedTuple):
    """A way to compress trees, as functions; what is compressed is a tree of arrays of its own.

    Attributes:
        init: gives the compressor's state (factors to start from, random keys; None if it has none) from parameters.
        compress: gives what is compressed, and the next state, from a tree and the state.
        decompress: gives what stands for the tree from what is compressed and a tree of its shapes; it has that tree's
            dtypes and shardings.
        inner_products: gives the inner product of a tree with each of many compressed ones, stacked along a leading
            axis, without decompressing them.
        combine: gives the sum of many compressed trees, stacked along a leading axis, each times a weight, from
            weights, these and a tree of the result's shapes.
        delta: gives the constant of contraction for trees of the shapes of one: `E|C(x) - x|^2 <= (1 - delta) |x|^2`.
            None if there is none, or none is known.
        omega: gives the constant of variance: `E C(x) = x` and `E|C(x) - x|^2 <= omega |x|^2`. None if it is not
            unbiased, or none is known.
    """

    init: Callable[[Any], Any]
    compress: Callable[[Any, Any], tuple[Any, Any]]
    decompress: Callable[[Any, Any], Any]
    inner_products: Callable[[Any, Any], jax.Array]
    combine: Callable[[jax.Array, Any, Any], Any]
    delta: Callable[[Any], float] | None = None
    omega: Callable[[Any], float] | None = None


class Entries(NamedTuple):
    """Some entries of a tree, all others being zero.

    Attributes:
        values: the entries.
        places: where they stand in the vector of all leaves, flattened, one behind the other.
    """

    values: jax.Array
    places: jax.Array


def nbytes(compressor: Compressor, tree: Any) -> int:
    """Says how many bytes a tree has when it is compressed: what one message of it has on the wire.

    Args:
        compressor: what compresses.
        tree: arrays, or their shapes and dtypes.

    Returns:
        The sum over all arrays that the compressor makes of it.

    Example:
        >>> nbytes(global_top_k(0.1), jax.ShapeDtypeStruct((50,), jnp.float32))
        40
    """

    def compress(tree):
        return compressor.compress(tree, compressor.init(tree))[0]

    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(compress, tree)))


def decompressing(
    init: Callable[[Any], Any],
    compress: Callable[[Any, Any], tuple[Any, Any]],
    decompress: Callable[[Any, Any], Any],
    *,
    delta: Callable[[Any], float] | None = None,
    omega: Callable[[Any], float] | None = None,
) -> Compressor:
    """Makes a compressor whose windows of many compressed trees are decompressed one after the other.

    Args:
        init: as in `Compressor`, like all others.
        compress: as there.
        decompress: as there.
        delta: as there.
        omega: as there.

    Returns:
        The compressor.

    Example:
        >>> half = decompressing(
        ...     lambda params: None,
        ...     lambda tree, state: (jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree), state),
        ...     optax.tree.cast_like,
        ... )
        >>> nbytes(half, jnp.zeros(100))
        200
    """

    def inner_products(rows, tree):
        return jax.lax.map(lambda row: optax.tree.vdot(widen(decompress(row, tree)), widen(tree)), rows)

    def combine(weights, rows, like):
        wide = widen(like)

        def add(total, weighted):
            weight, row = weighted
            return jax.tree.map(lambda x, y: x + weight.astype(x.dtype) * y, total, decompress(row, wide)), None

        total = jax.lax.scan(add, optax.tree.zeros_like(wide), (weights, rows))[0]
        return optax.tree.cast_like(total, like)

    return Compressor(init, compress, decompress, inner_products, combine, delta, omega)


def global_top_k(density: float | None = None, *, dtype: DTypeLike | None = None) -> Compressor:
    """Keeps the entries of largest magnitude of all leaves together, and forgets the others.

    Leaves are gathered where mesh axes are explicit. Its constant of contraction is the share of entries kept; on the
    wire an entry kept has 4 bytes more than its value.

    Args:
        density: share of the entries that are kept, in (0, 1]; None: 0.01. Their number is rounded down, but at least
            1.
        dtype: of their values; default the leaves', but at least float32. What 16 bits lose is left to
            `error_feedback`.

    Returns:
        A `Compressor` to `Entries`, with places of 32 bits.

    Raises:
        ValueError: if `density` is out of its range, or a tree has too many entries for such places.

    Example:
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
        # One after the other: added at once, entries of equal places would be added in any order on a GPU.
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
    """Gives the dtype that holds all leaves, in float32 at least."""
    real = scalar_dtype(tree)
    if any(jnp.issubdtype(x.dtype, jnp.complexfloating) for x in jax.tree.leaves(tree)):
        return jnp.dtype(jnp.complex128 if real == jnp.float64 else jnp.complex64)
    return real


def _size(tree: Any) -> int:
    size = sum(x.size for x in jax.tree.leaves(tree))
    if size > 2**31:
        raise ValueError(
            f"global_top_k counts entries with 32 bits and got a tree of {size} entries: use optax.partition"
        )
    return size


def _flatten(tree: Any) -> jax.Array:
    """All leaves as one vector, in float32 at least."""
    dtype, _ = _wide_dtype(tree), _size(tree)
    return ravel_pytree(jax.tree.map(lambda x: replicate(x).astype(dtype), tree))[0]


def _unflatten(flat: jax.Array, like: Any) -> Any:
    """Leaves out of one vector, with dtypes and explicit shardings of those of a tree."""
    _, unravel = ravel_pytree(jax.tree.map(lambda x: jnp.zeros(x.shape, flat.dtype), like))
    return jax.tree.map(lambda part, x: shard_like(part.astype(x.dtype), x), unravel(flat), like)
