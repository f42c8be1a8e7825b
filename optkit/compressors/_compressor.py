"""The type `Compressor`, and functions that all compressors share."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.precision import widen
from optkit.core.types import AxisName
from optkit.method import Method

__all__ = ["Compressor", "Sums", "nbytes"]


class Sums(NamedTuple):
    """A way to add up compressed trees by a collective such as `jax.lax.psum`, which sends less than a gather of them.

    Attributes:
        addends: Returns what is added up over the workers, a tree of arrays, from a worker's compressed tree and the
            number of workers, on which the width of integers depends.
        total: Returns the sum of the decompressed trees, from the sum of the addends, the worker's own compressed tree,
            and a tree of the result's shapes. What is not added up, such as places, scales and keys, is equal on all
            workers and comes from the worker's own compressed tree.
    """

    addends: Callable[[Any, int], Any]
    total: Callable[..., Any]


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
            weights, the compressed trees, and a tree of the result's shapes. A tree of weight zero is left out, even if
            it is not finite.
        delta: Returns the constant of contraction for trees of given shapes: `E|C(x) - x|^2 <= (1 - delta) |x|^2`. None
            if there is none, or none is known.
        omega: Returns the constant of variance: `E C(x) = x` and `E|C(x) - x|^2 <= omega |x|^2`. None if the compressor
            is biased, or no constant is known.
        sums: How compressed trees are added up without a gather. None if they cannot be.
        change_rule: For a compressor that treats each leaf by itself, or the vector of all leaves: returns another one,
            from a function of its rule for one vector and, if that is for real numbers only, its public name. None for
            other compressors, which `in_blocks` and `quantize_values` refuse.
    """

    init: Callable[[Any], Any]
    compress: Callable[[Any, Any], tuple[Any, Any]]
    decompress: Callable[[Any, Any], Any]
    inner_products: Callable[[Any, Any], jax.Array]
    combine: Callable[[jax.Array, Any, Any], Any]
    delta: Callable[[Any], float] | None = None
    omega: Callable[[Any], float] | None = None
    sums: Sums | None = None
    change_rule: Callable[..., "Compressor"] | None = None


def nbytes(compressor: Compressor, tree: Any, *, axis_name: AxisName | None = None) -> int:
    """Returns the number of bytes of a compressed tree, which is the size of one message.

    Args:
        compressor: The compressor.
        tree: Arrays, or their shapes and dtypes.
        axis_name: Name of the axis over workers, if the compressor was made with one and this function is called
            outside of it. Default: None.

    Returns:
        The sum over all arrays of the compressed form, for one worker.

    Example:
        >>> import jax.numpy as jnp
        >>> from optkit import compressors
        >>> nbytes(compressors.top_k(0.1), jax.ShapeDtypeStruct((50,), jnp.float32))
        40
    """

    def compress(tree):
        return compressor.compress(tree, compressor.init(tree))[0]

    if axis_name is not None:
        compress = jax.vmap(compress, in_axes=None, axis_size=1, axis_name=axis_name)
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

        def term(weight, row):
            return jax.tree.map(functools.partial(weigh, weight), decompress(row, wide))

        total = sum_rows_in_groups(term, weights, rows, most=1)
        return optax.tree.cast_like(total, like)

    return Compressor(init, compress, decompress, inner_products, combine, delta, omega)


def sum_rows_in_groups(
    term: Callable[[jax.Array, Any], Any], weights: jax.Array, rows: Any, most: int | None = None
) -> Any:
    """Adds up a function of each of many stacked trees, a few of them in one fused pass over the result.

    Args:
        term: Returns a tree of the result's shapes and dtypes, from a weight and the tree of one row.
        weights: One number for each row, of which there is at least one.
        rows: The trees, stacked along a leading axis.
        most: The largest number of rows in one pass. Default: None, which stands for 8.

    Returns:
        The sum.

    Example:
        >>> sum_rows_in_groups(lambda weight, row: weight * row, jnp.array([1.0, 2.0]), jnp.array([[3.0], [4.0]]))
        Array([11.], dtype=float32)
    """
    most = 8 if most is None else most

    def of_group(weights, rows):
        terms = [term(weights[i], jax.tree.map(lambda x, i=i: x[i], rows)) for i in range(len(weights))]
        return functools.reduce(optax.tree.add, terms)

    def add_group(total, group):
        return optax.tree.add(total, of_group(*group)), None

    everything = (weights, rows)
    first = (len(weights) - 1) % most + 1
    total = of_group(*jax.tree.map(lambda x: x[:first], everything))
    if first == len(weights):
        return total
    groups = jax.tree.map(lambda x: x[first:].reshape(-1, most, *x.shape[1:]), everything)
    return jax.lax.scan(add_group, total, groups)[0]


def require_rule(compressor: Compressor, method: str) -> Callable[..., Compressor]:
    """Returns `change_rule` of a compressor.

    Args:
        compressor: The compressor.
        method: The public name of the function that changes the rule.

    Returns:
        The function.

    Raises:
        ValueError: If it has none.
    """
    if compressor.change_rule is None:
        raise ValueError(
            f"{method} changes the rule of a compressor for one leaf, and this one has none: pass one that treats each"
            " leaf by itself, such as top_k, rand_k, scaled_sign or qsgd, alone or within on_whole_tree"
        )
    return compressor.change_rule


def weigh(weight: jax.Array, x: jax.Array) -> jax.Array:
    """Multiplies by a weight, in the dtype of the array; what has the weight zero is zero, even if it is not finite.

    Args:
        weight: A scalar, or an array.
        x: An array.

    Returns:
        The product.

    Example:
        >>> import jax.numpy as jnp
        >>> weigh(jnp.array(0.0), jnp.array([1.0, jnp.nan])).tolist()
        [0.0, 0.0]
    """
    return jnp.where(weight == 0, 0, weight.astype(x.dtype) * x)


METHODS = (
    Method(
        name="compressors.nbytes",
        factory=nbytes,
        kind="function",
        summary="Returns the number of bytes of a compressed tree, which is the size of one message.",
    ),
)
