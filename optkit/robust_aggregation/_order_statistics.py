"""What robust rules share: counting rows, ranking them, and averaging some of them."""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optkit.core.injection import refuse_arrays
from optkit.core.workers.aggregation import (
    Total,
    distances,
    mean_of_rows,
    replace_rows,
    sort_rows,
    squared_distances,
)


def check_byzantine(byzantine: Any) -> None:
    """Raises unless an argument is an integer that is at least 0."""
    refuse_arrays(byzantine=byzantine)
    if isinstance(byzantine, bool) or not isinstance(byzantine, int) or byzantine < 0:
        raise ValueError(f"byzantine must be an integer and at least 0, got {byzantine!r}")


def count_rows(rows: Any, active: jax.Array | None, least: int, method: str) -> Any:
    """Counts the rows that take part.

    Args:
        rows: a tree of stacked rows, with leaves.
        active: which take part, all by default.
        least: how few are enough.
        method: the rule, for the message.

    Returns:
        An integer, or an array where `active` is given.

    Raises:
        ValueError: if there are fewer rows than that.
    """
    count = len(jax.tree.leaves(rows)[0])
    if count < least:
        raise ValueError(f"{method} needs at least {least} rows, got {count}: lower byzantine, or add rows")
    return count if active is None else jnp.sum(active)


def smallest(values: jax.Array, count: Any) -> jax.Array:
    """Marks the smallest values along the last axis, of equal ones the first."""
    return jnp.argsort(jnp.argsort(values, stable=True), stable=True) < count


def mean_of_smallest(rows: Any, values: jax.Array, count: Any) -> Any:
    """Averages the rows with the smallest values; NaN where a value that it needs is infinite.

    Args:
        rows: a tree of stacked rows.
        values: a number for each, infinite for rows that cannot be used.
        count: how many are averaged.

    Returns:
        A tree shaped like a row.
    """
    marked = smallest(values, count)
    mean = mean_of_rows(replace_rows(rows, marked, 0.0), marked)
    return nan_unless(jnp.all(jnp.isfinite(values) | ~marked), mean)


def nan_unless(condition: jax.Array, tree: Any) -> Any:
    """Makes all of a tree NaN, so that too few rows are seen, unless a condition holds."""
    return jax.tree.map(lambda x: jnp.where(condition, x, jnp.nan), tree)


def distances_from(rows: Any, center: Any, active: jax.Array | None, total: Total) -> jax.Array:
    """Gives distances from a point: infinite for rows that are absent or not finite.

    Where workers hold slices, it sends sums of squares and no largest entries: distances beyond the square root of the
    dtype's range are then infinite, or zero.
    """
    if total.axis_name is None:
        apart = distances(rows, center, total)
    else:
        apart = jnp.sqrt(total(squared_distances(rows, center)))
    usable = jnp.isfinite(apart) if active is None else jnp.isfinite(apart) & active
    return jnp.where(usable, apart, jnp.inf)


def lengths(rows: Any, active: jax.Array | None, total: Total) -> jax.Array:
    """Gives norms: infinite for rows that are absent or not finite, see `distances_from`."""
    return distances_from(rows, jax.tree.map(lambda x: jnp.zeros_like(x[0]), rows), active, total)


def distances_between(rows: Any, active: jax.Array | None, total: Total) -> jax.Array:
    """Gives distances of all pairs: infinite where one is absent or not finite, see `distances_from`."""
    if total.axis_name is None:
        apart = jax.lax.map(lambda row: distances(rows, row, total), rows)
    else:
        apart = jnp.sqrt(total(jax.lax.map(lambda row: squared_distances(rows, row), rows)))
    usable = jnp.isfinite(lengths(rows, active, total))
    return jnp.where(jnp.outer(usable, usable), apart, jnp.inf)


def sort_coordinates(rows: jax.Array, active: jax.Array | None) -> list[jax.Array]:
    """Sorts each coordinate over the rows; NaN, and what is absent, counts as infinite."""
    if active is not None:
        rows = replace_rows(rows, active, jnp.inf)
    return sort_rows(jnp.where(jnp.isnan(rows), jnp.inf, rows))


def entry(ordered: list[jax.Array], index: Any) -> jax.Array:
    """Takes one of the sorted values; the index may be traced."""
    return ordered[index] if isinstance(index, int) else jnp.stack(ordered)[index]


def mean_between(ordered: list[jax.Array], start: Any, size: Any) -> jax.Array:
    """Averages so many of the sorted values from a place on, which may differ between coordinates.

    NaN where one of them is not finite, as those are that stand for NaN and for rows that are absent.
    """
    kept = [jnp.where((k >= start) & (k < start + size), x, 0) for k, x in enumerate(ordered)]
    mean = functools.reduce(jnp.add, kept) / jnp.asarray(size, ordered[0].dtype)
    return jnp.where(jnp.isfinite(mean), mean, jnp.nan)


def is_stateless(aggregator: optax.GradientTransformation) -> bool:
    """Says whether an aggregator keeps nothing between updates."""
    return not jax.tree.leaves(jax.eval_shape(aggregator.init, {"x": jax.ShapeDtypeStruct((1,), jnp.float32)}))


def require_slices(aggregator: optax.GradientTransformationExtraArgs, method: str) -> None:
    """Raises unless an aggregator can be called with a slice of the coordinates: without state, and taking `total`."""
    if "total" not in inspect.signature(aggregator.update).parameters or not is_stateless(aggregator):
        raise ValueError(
            f"{method} with layout='transpose' needs a rule without state that takes the extra argument total, as those"
            " of optkit do: leave layout='gather'"
        )
