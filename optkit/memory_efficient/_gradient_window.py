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
    """The last gradients; the rows before the first gradient are zero.

    Attributes:
        oldest: The row that the next gradient overwrites, equal on all workers.
        rows: The gradients along a new leading axis. Without a compressor, trees like the parameters, at least in
            float32 and sharded like the parameters along the other axes. With a compressor, what it makes of the
            gradients, replicated.
        gram: Inner products of the gradients, at least in float32.
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
        params: The parameters.
        size: Number of gradients in the window.
        compressor: Compressor of the gradients; None keeps them whole.

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
    """Returns the number of steps since each row's gradient came: 0 for the newest."""
    size = len(window.gram)
    return jnp.mod(window.oldest - 1 - jnp.arange(size), size)


def push(
    window: GradientWindow, gradient: Any, compressed: Any, compressor: Compressor | None, method: str
) -> GradientWindow:
    """Overwrites the oldest gradient, and its row and column of inner products.

    Args:
        window: The window.
        gradient: The new gradient.
        compressed: Its compressed form; None if there is none.
        compressor: See `empty_window`.
        method: Public name of the transformation, for messages.

    Returns:
        The next window.

    Raises:
        TypeError: If the compressed form is needed and missing.
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
    """Returns the weights, or NaN while a gradient in the window is not finite or its squared norm overflows."""
    return jnp.where(jnp.all(jnp.isfinite(window.gram)), weights, jnp.nan)


def inner_products(window: GradientWindow, tree: Any, compressor: Compressor | None) -> jax.Array:
    """Returns the inner product of a tree with each row, at least in float32."""
    if compressor is not None:
        return compressor.inner_products(window.rows, tree).astype(window.gram.dtype)

    def of_leaf(row, x):
        axes = string.ascii_letters[1 : 1 + x.ndim]
        return einsum(f"a{axes},{axes}->a", row, x.astype(row.dtype), precision="highest")

    products = jax.tree.leaves(jax.tree.map(of_leaf, window.rows, tree))
    return sum(products, jnp.zeros_like(window.gram[0]))


def combine(weights: jax.Array, window: GradientWindow, like: Any, compressor: Compressor | None) -> Any:
    """Returns the sum of all rows, each times a weight, with the shapes, shardings and dtypes of a tree."""
    if compressor is not None:
        # Weights of NaN also show where no row has an entry.
        shown = jnp.where(jnp.any(jnp.isnan(weights)), jnp.nan, 0.0)
        return jax.tree.map(lambda x: x + shown.astype(x.dtype), compressor.combine(weights, window.rows, like))

    def of_leaf(row, x):
        axes = string.ascii_letters[1 : 1 + x.ndim]
        return einsum(f"a,a{axes}->{axes}", weights.astype(row.dtype), row, precision="highest").astype(x.dtype)

    return jax.tree.map(of_leaf, window.rows, like)
