"""Rules over rows: one function for gradients stacked along a leading axis and for those of the workers of an axis."""

import functools
from collections.abc import Callable
from typing import Any

import jax

_STACKED = "optkit.core.rows"


def over_rows(rule: Callable[..., Any], axis_name: str | None) -> Callable[..., Any]:
    """Turns a rule over a named axis into one over stacked rows or over workers, to the same numbers.

    Args:
        rule: called as `rule(row, *shared, axis_name=axis_name)` with one row's tree, it talks to the other rows by
            collectives (`jax.lax.psum`, `jax.lax.all_gather` ...) and returns what is equal for all.
        axis_name: the axis over workers, each of which has one row; or None for rows stacked along the leading axis of
            each leaf.

    Returns:
        A function of the row, or of the stacked rows, and of the arguments `shared` that have no such axis.

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
