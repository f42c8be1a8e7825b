"""Order statistics over rows: of their coordinates, and of numbers that rank whole rows."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from optkit.core.workers.aggregation import mean_of_rows, nan_unless, replace_rows, sort_rows


def smallest(values: jax.Array, count: Any) -> jax.Array:
    """Marks the smallest values along the last axis; of equal values, the first ones."""
    return jnp.argsort(jnp.argsort(values, stable=True), stable=True) < count


def mean_of_smallest(rows: Any, values: jax.Array, count: Any) -> Any:
    """Averages the rows with the smallest values; the result is NaN if one of those values is infinite.

    Args:
        rows: A tree of stacked rows.
        values: One number per row, infinite for rows that cannot be used.
        count: How many rows are averaged.

    Returns:
        A tree shaped like a row.
    """
    marked = smallest(values, count)
    mean = mean_of_rows(replace_rows(rows, marked, 0.0), marked)
    return nan_unless(jnp.all(jnp.isfinite(values) | ~marked), mean)


def sort_coordinates(rows: jax.Array, active: jax.Array | None) -> list[jax.Array]:
    """Sorts each coordinate over the rows; NaN and absent rows count as infinite."""
    if active is not None:
        rows = replace_rows(rows, active, jnp.inf)
    return sort_rows(jnp.where(jnp.isnan(rows), jnp.inf, rows))


def entry(ordered: list[jax.Array], index: Any) -> jax.Array:
    """Takes one of the sorted values; the index may be traced."""
    return ordered[index] if isinstance(index, int) else jnp.stack(ordered)[index]


def mean_between(ordered: list[jax.Array], start: Any, size: Any) -> jax.Array:
    """Averages `size` sorted values from position `start` on; both may differ between coordinates.

    The result is NaN if one of these values is not finite: infinite values stand for NaN and for absent rows.
    """
    kept = [jnp.where((k >= start) & (k < start + size), x, 0) for k, x in enumerate(ordered)]
    mean = functools.reduce(jnp.add, kept) / jnp.asarray(size, ordered[0].dtype)
    return jnp.where(jnp.isfinite(mean), mean, jnp.nan)
