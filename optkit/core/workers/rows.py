"""Rules over rows of gradients: one function for rows along a leading axis and for rows of workers on a named axis."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optkit.core.types import AxisName

_STACKED = "optkit.core.workers.rows"
# With more rows than this, a sum of single ones takes long to compile.
_MOST_SINGLE_ROWS = 8


def over_rows(rule: Callable[..., Any], axis_name: AxisName | None) -> Callable[..., Any]:
    """Turns a rule over a named axis into a function of stacked rows, or of one worker's row, with the same results.

    Args:
        rule: Called as `rule(row, *shared, axis_name=axis_name)` with the tree of one row. It communicates with the
            other rows by collectives (`jax.lax.psum`, `jax.lax.all_gather` and so on) and returns what is equal for all
            rows.
        axis_name: Name of the axis over workers. Each worker then has one row. None: rows are stacked along the leading
            axis of each leaf.

    Returns:
        A function of the row, or of the stacked rows, and of the arguments `shared`, which have no such axis.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> def mean(row, weight, *, axis_name):
        ...     return weight * jax.lax.pmean(row, axis_name)
        >>> over_rows(mean, None)(jnp.array([[1.0, 2.0], [3.0, 6.0]]), 10.0)
        Array([20., 40.], dtype=float32)
    """
    if axis_name is not None:
        return functools.partial(rule, axis_name=axis_name)

    def stacked(rows, *shared):
        mapped = jax.vmap(
            functools.partial(rule, axis_name=_STACKED),
            in_axes=(0, *(None for _ in shared)),
            out_axes=None,
            axis_name=_STACKED,
            axis_size=None if jax.tree.leaves(rows) else 1,
        )
        return mapped(rows, *shared)

    return stacked


def psum(row: Any, axis_name: AxisName) -> Any:
    """Sums over the rows, inside a rule.

    For workers it is `jax.lax.psum`. Stacked rows are gathered, which costs nothing, and summed, because JAX 0.10
    cannot reduce over an axis of `vmap` if the values are sharded over explicit mesh axes.

    Args:
        row: The tree of one row.
        axis_name: The axis name that the rule received.

    Returns:
        The sum, equal for all rows.

    Example:
        >>> import jax.numpy as jnp
        >>> over_rows(psum, None)(jnp.array([[1.0, 2.0], [3.0, 6.0]]))
        Array([4., 8.], dtype=float32)
    """
    if axis_name != _STACKED:
        return jax.lax.psum(row, axis_name)
    # Tiled, because inside lax.cond an axis added by all_gather would take the sharding of the axis after it.
    rows = jax.tree.map(lambda x: jax.lax.all_gather(x[None], axis_name, tiled=True), row)
    return sum_rows(rows, jnp.ones(jax.lax.axis_size(axis_name)))


def sum_rows(rows: Any, weights: jax.Array) -> Any:
    """Sums stacked rows, each multiplied by a weight.

    Args:
        rows: A tree of arrays with a leading axis.
        weights: One number per row.

    Returns:
        The tree without that axis, in its own dtypes; booleans are counted.

    Example:
        >>> sum_rows(jnp.array([[1.0, 2.0], [3.0, 6.0]]), jnp.array([1.0, 0.5]))
        Array([2.5, 5. ], dtype=float32)
    """

    # XLA for CPUs sums along a leading axis some fifty times slower than either of these. Single rows are read together
    # with what follows, a product of matrices is written to memory and read again.
    def weighted_sum(x):
        x = x.astype(jnp.int32) if x.dtype == bool else x
        factors = weights.astype(x.dtype)
        if 0 < len(x) <= _MOST_SINGLE_ROWS:
            return functools.reduce(jnp.add, [factors[i] * x[i] for i in range(len(x))])
        return jnp.tensordot(factors, x, 1, precision="highest")

    return jax.tree.map(weighted_sum, rows)


def count_rows(row: Any, axis_name: AxisName, method: str) -> int:
    """Returns the number of rows, and raises if there is only one.

    Args:
        row: The tree of one row. If it has no leaves, one row is enough.
        axis_name: Name of the axis over rows.
        method: The public name of the transformation.

    Returns:
        The size of the axis.

    Raises:
        ValueError: If there is only one row.
    """
    rows = jax.lax.axis_size(axis_name)
    if rows < 2 and jax.tree.leaves(row):
        raise ValueError(
            f"{method} compares gradients and needs at least 2 of them, got {rows}: pass them with a leading axis"
            " (microbatches, samples), or with axis_name each worker's own, without pmean"
        )
    return rows


def mean_over_rows(row: Any, axis_name: AxisName) -> Any:
    """Averages over the rows, inside a rule.

    Args:
        row: The tree of one row, in the precision of the sum.
        axis_name: Name of the axis over rows.

    Returns:
        The mean, equal for all rows.
    """
    rows = jax.lax.axis_size(axis_name)
    return jax.tree.map(lambda total: total / rows, psum(row, axis_name))


def require_rows(rows: Any, method: str) -> None:
    """Raises if gradients have no leading axis, or if its size differs between leaves.

    Args:
        rows: The gradients. A tree without leaves is accepted.
        method: The public name of the transformation.

    Raises:
        ValueError: If a leaf is a scalar, or if the leading axes of leaves have different sizes.

    Example:
        >>> import jax.numpy as jnp
        >>> require_rows({"kernel": jnp.ones((4, 3, 2)), "bias": jnp.ones((4, 2))}, "vr_sgd")
    """
    shapes = [jnp.shape(x) for x in jax.tree.leaves(rows)]
    if not all(shapes) or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(
            f"{method} takes gradients with a leading axis, of as many microbatches, samples or workers in each leaf,"
            f" got leaves of shapes {', '.join(map(str, shapes))}: pass one gradient per row, not their mean, or with"
            " axis_name each worker's own"
        )


def require_reduced(gradient: Any, params: Any, method: str) -> None:
    """Raises if gradients had no leading axis to be removed, which broadcasting would hide.

    Args:
        gradient: The gradients after the leading axis was removed.
        params: The parameters, or None if `update` was called without them.
        method: The public name of the transformation.

    Raises:
        ValueError: If a leaf of the gradient has another shape than its parameter.

    Example:
        >>> import jax.numpy as jnp
        >>> require_reduced({"w": jnp.ones(3)}, {"w": jnp.zeros(3)}, "vr_sgd")
    """
    if params is None:
        return
    for (path, g), p in zip(jax.tree.leaves_with_path(gradient), jax.tree.leaves(params), strict=True):
        if jnp.shape(g) != jnp.shape(p):
            raise ValueError(
                f"{method} takes gradients with a leading axis and removes it, or with axis_name each worker's own"
                f" without one; after the removal the gradient of params{jax.tree_util.keystr(path)} has shape"
                f" {jnp.shape(g)} and the parameter {jnp.shape(p)}"
            )
