"""The type `Compressor`, and functions that all compressors share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from optkit.core.precision import widen
from optkit.method import Method

__all__ = ["Compressor", "nbytes"]


class Compressor(NamedTuple):
    """A way to compress trees, as a tuple of functions; the compressed form is a tree of arrays of its own.

    Attributes:
        init: Returns the compressor's state from the parameters: factors to start from, or random keys; None without
            state.
        compress: Returns the compressed form and the next state, from a tree and the state.
        decompress: Returns the tree that a compressed form stands for, from that form and a tree of the same shapes,
            whose dtypes and shardings it gets.
        inner_products: Returns the inner product of a tree with each of many compressed trees, which are stacked along
            a leading axis, without decompressing all of them at once.
        combine: Returns the weighted sum of many compressed trees, which are stacked along a leading axis, from the
            weights, the compressed trees, and a tree of the result's shapes.
        delta: Returns the constant of contraction for trees of given shapes: `E|C(x) - x|^2 <= (1 - delta) |x|^2`. None
            if there is none, or none is known.
        omega: Returns the constant of variance: `E C(x) = x` and `E|C(x) - x|^2 <= omega |x|^2`. None if the compressor
            is biased, or no constant is known.
    """

    init: Callable[[Any], Any]
    compress: Callable[[Any, Any], tuple[Any, Any]]
    decompress: Callable[[Any, Any], Any]
    inner_products: Callable[[Any, Any], jax.Array]
    combine: Callable[[jax.Array, Any, Any], Any]
    delta: Callable[[Any], float] | None = None
    omega: Callable[[Any], float] | None = None


def nbytes(compressor: Compressor, tree: Any) -> int:
    """Returns the number of bytes of a compressed tree, which is the size of one message.

    Args:
        compressor: The compressor.
        tree: Arrays, or their shapes and dtypes.

    Returns:
        The sum over all arrays of the compressed form.

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
    """Makes a compressor that decompresses the trees of a window one after the other.

    Args:
        init: See `Compressor`.
        compress: See `Compressor`.
        decompress: See `Compressor`.
        delta: See `Compressor`.
        omega: See `Compressor`.

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
        summary="Returns the number of bytes of a compressed tree, which is the size of one message.",
    ),
)
