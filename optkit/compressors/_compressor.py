"""The type of compressors, and what is true of all of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from optkit.core.precision import widen
from optkit.method import Method

__all__ = ["Compressor", "nbytes"]


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


def nbytes(compressor: Compressor, tree: Any) -> int:
    """Says how many bytes a tree has when it is compressed: what one message of it has on the wire.

    Args:
        compressor: what compresses.
        tree: arrays, or their shapes and dtypes.

    Returns:
        The sum over all arrays that the compressor makes of it.

    Example:
        >>> import jax.numpy as jnp
        >>> from optkit import compressors
        >>> nbytes(compressors.top_k(0.1), jax.ShapeDtypeStruct((50,), jnp.float32))
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
        init: as in `Compressor`.
        compress: as in `Compressor`.
        decompress: as in `Compressor`.
        delta: as in `Compressor`.
        omega: as in `Compressor`.

    Returns:
        The compressor.

    Example:
        >>> import jax.numpy as jnp
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


METHODS = (
    Method(
        name="compressors.nbytes",
        factory=nbytes,
        kind="function",
        summary="The number of bytes that a tree has on the wire once it is compressed.",
    ),
)
