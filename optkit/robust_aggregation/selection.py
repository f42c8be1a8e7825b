"""What robust rules share: counting rows, ranking them, and averaging some of them."""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optkit.core.aggregation import Total, mean_of_rows, replace_rows, sort_rows, squared_distances


def check_byzantine(byzantine: Any) -> None:
    """Raises unless an argument is an integer that is at least 0."""
    if isinstance(byzantine, bool) or not isinstance(byzantine, int) or byzantine < 0:
        raise ValueError(f"byzantine must be an integer and at least 0, got {byzantine!r}")


def count_rows(rows: Any, present: jax.Array | None, least: int, method: str) -> Any:
    """Counts the rows that take part.

    Args:
        rows: a tree of stacked rows, with leaves.
        present: which take part, all by default.
        least: how few are enough.
        method: the rule, for the message.

    Returns:
        An integer, or an array where `present` is given.

    Raises:
        ValueError: if there are fewer rows than that.
    """
    count = len(jax.tree.leaves(rows)[0])
    if count < least:
        raise ValueError(f"{method} needs at least {least} rows, got {count}: lower byzantine, or add rows")
    return count if present is None else jnp.sum(present)


def smallest(values: jax.Array, count: Any) -> jax.Array:
    """Marks the smallest values along the last axis, of equal ones the first."""
    return jnp.argsort(jnp.argsort(values, stable=True), stable=True) < count


def mean_of_marked(rows: Any, marked: jax.Array) -> Any:
    """Averages some of the rows; the others may be NaN."""
    return mean_of_rows(replace_rows(rows, marked, 0.0), marked)


def distances_from(rows: Any, center: Any, present: jax.Array | None, total: Total) -> jax.Array:
    """Gives squared distances from a point: infinite for rows that are absent, not finite, or too far for the dtype."""
    squared = squared_distances(rows, center, total)
    usable = jnp.isfinite(squared) if present is None else jnp.isfinite(squared) & present
    return jnp.where(usable, squared, jnp.inf)


def squared_norms(rows: Any, present: jax.Array | None, total: Total) -> jax.Array:
    """Gives squared norms: infinite for rows that are absent, not finite, or too large for the dtype."""
    return distances_from(rows, jax.tree.map(lambda x: jnp.zeros_like(x[0]), rows), present, total)


def distances_between(rows: Any, present: jax.Array | None, total: Total) -> jax.Array:
    """Gives squared distances of all pairs: infinite where one is absent, not finite, or too large for the dtype."""
    local = jax.lax.map(lambda row: squared_distances(rows, row, lambda x: x), rows)
    usable = jnp.isfinite(squared_norms(rows, present, total))
    return jnp.where(usable[:, None] & usable, total(local), jnp.inf)


def sort_coordinates(rows: jax.Array, present: jax.Array | None) -> list[jax.Array]:
    """Sorts each coordinate over the rows; NaN, and what is absent, counts as infinite."""
    if present is not None:
        rows = replace_rows(rows, present, jnp.inf)
    return sort_rows(jnp.where(jnp.isnan(rows), jnp.inf, rows))


def entry(ordered: list[jax.Array], index: Any) -> jax.Array:
    """Takes one of the sorted values; the index may be traced."""
    return ordered[index] if isinstance(index, int) else jnp.stack(ordered)[index]


def mean_between(ordered: list[jax.Array], start: Any, size: Any) -> jax.Array:
    """Averages so many of the sorted values from a place on, which may differ between coordinates."""
    kept = [jnp.where((k >= start) & (k < start + size), x, 0) for k, x in enumerate(ordered)]
    return functools.reduce(jnp.add, kept) / size


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
