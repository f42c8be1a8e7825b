"""The window of the last gradients, whole or compressed, with their inner products: shared by M-FAC and GGT."""

import string
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.compressors import Compressor
from optkit.core.extra_args import required
from optkit.core.linalg.contraction import einsum
from optkit.core.precision import scalar_dtype, widen
from optkit.core.types import AxisName
from optkit.core.workers import collectives


class GradientWindow(NamedTuple):
    """The last gradients; those before the first are zero.

    Attributes:
        oldest: the row that the next gradient overwrites, equal on all workers.
        rows: the gradients along a new leading axis, the oldest overwritten first: trees like the parameters, sharded
            like them along the other axes and in float32 at least; or, compressed, replicated, what the compressor
            makes of them.
        gram: their inner products, in float32 at least.
    """

    oldest: jax.Array
    rows: Any
    gram: jax.Array


def average_over(axis_name: AxisName | tuple[str, ...] | None) -> optax.GradientTransformation:
    """Averages gradients over workers, so that the windows on all of them are equal."""
    return optax.stateless(lambda updates, _: collectives.pmean(updates, axis_name))


def empty_window(params: Any, size: int, compressor: Compressor | None) -> GradientWindow:
    """Makes a window of zeros.

    Args:
        params: the parameters.
        size: number of gradients in it.
        compressor: of its gradients; None to keep them whole.

    Returns:
        The window.
    """
    if compressor is None:
        rows = jax.tree.map(lambda p: jnp.broadcast_to(jnp.zeros_like(widen(p)), (size, *p.shape)), params)
    else:
        state = compressor.init(params)
        like = jax.eval_shape(lambda tree: compressor.compress(widen(tree), state)[0], params)
        rows = jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), like)
    gram = jnp.zeros((size, size), scalar_dtype(params))
    return GradientWindow(oldest=jnp.zeros([], jnp.int32), rows=rows, gram=gram)


def ages(window: GradientWindow) -> jax.Array:
    """Says for each row how many steps ago its gradient came: 0 for the newest."""
    size = len(window.gram)
    return jnp.mod(window.oldest - 1 - jnp.arange(size), size)


def push(
    window: GradientWindow, gradient: Any, compressed: Any, compressor: Compressor | None, method: str
) -> GradientWindow:
    """Overwrites the oldest gradient, and one row and column of the inner products.

    Args:
        window: the window.
        gradient: the new one.
        compressed: its compressed form; None if there is none.
        compressor: as in `empty_window`.
        method: the public name of the transformation.

    Returns:
        The next window.

    Raises:
        TypeError: if the compressed form is needed and missing.
    """
    if compressor is None:
        row = gradient
    else:
        example = "compressed=...), or put it inside optkit.error_feedback(..., compressor"
        row = required(compressed, "compressed", method, example)
    rows = jax.tree.map(
        lambda x, r: jax.lax.dynamic_update_index_in_dim(x, r.astype(x.dtype), window.oldest, 0), window.rows, row
    )
    window = window._replace(rows=rows)
    products = inner_products(window, gradient, compressor)
    gram = window.gram.at[window.oldest].set(products).at[:, window.oldest].set(products)
    return GradientWindow(oldest=jnp.mod(window.oldest + 1, len(gram)), rows=rows, gram=gram)


def unless_bad(weights: jax.Array, window: GradientWindow) -> jax.Array:
    """Gives weights of the rows, NaN as long as a gradient in the window is not finite, or too large for its square."""
    return jnp.where(jnp.all(jnp.isfinite(window.gram)), weights, jnp.nan)


def inner_products(window: GradientWindow, tree: Any, compressor: Compressor | None) -> jax.Array:
    """Gives the inner product of a tree with each row, in float32 at least."""
    if compressor is not None:
        return compressor.inner_products(window.rows, tree).astype(window.gram.dtype)

    def of_leaf(row, x):
        axes = string.ascii_letters[1 : 1 + x.ndim]
        return einsum(f"a{axes},{axes}->a", row, x.astype(row.dtype), precision="highest")

    products = jax.tree.leaves(jax.tree.map(of_leaf, window.rows, tree))
    return sum(products, jnp.zeros_like(window.gram[0]))


def combine(weights: jax.Array, window: GradientWindow, like: Any, compressor: Compressor | None) -> Any:
    """Gives the sum of all rows, each times a weight, shaped and sharded like a tree and in its dtypes."""
    if compressor is not None:
        # Weights of NaN also show where no row has an entry.
        shown = jnp.where(jnp.any(jnp.isnan(weights)), jnp.nan, 0.0)
        return jax.tree.map(lambda x: x + shown.astype(x.dtype), compressor.combine(weights, window.rows, like))

    def of_leaf(row, x):
        axes = string.ascii_letters[1 : 1 + x.ndim]
        return einsum(f"a,a{axes}->{axes}", weights.astype(row.dtype), row, precision="highest").astype(x.dtype)

    return jax.tree.map(of_leaf, window.rows, like)
