"""Distances between rows, and from a point, as robust rules rank them: infinite for rows that cannot be used."""

from typing import Any

import jax
import jax.numpy as jnp

from optkit.core.workers.aggregation import Total, distances, squared_distances


def distances_from(rows: Any, center: Any, active: jax.Array | None, total: Total) -> jax.Array:
    """Returns distances from a point, which are infinite for rows that are absent or not finite.

    If workers hold slices, it sends sums of squares, and not the largest entries. Distances beyond the square root of
    the dtype's range are then infinite, or zero.
    """
    if total.axis_name is None:
        apart = distances(rows, center, total)
    else:
        apart = jnp.sqrt(total(squared_distances(rows, center)))
    usable = jnp.isfinite(apart) if active is None else jnp.isfinite(apart) & active
    return jnp.where(usable, apart, jnp.inf)


def lengths(rows: Any, active: jax.Array | None, total: Total) -> jax.Array:
    """Returns norms, which are infinite for rows that are absent or not finite; see `distances_from`."""
    return distances_from(rows, jax.tree.map(lambda x: jnp.zeros_like(x[0]), rows), active, total)


def distances_between(rows: Any, active: jax.Array | None, total: Total) -> jax.Array:
    """Returns the distances of all pairs, which are infinite if a row is absent or not finite; see `distances_from`."""
    if total.axis_name is None:
        apart = jax.lax.map(lambda row: distances(rows, row, total), rows)
    else:
        apart = jnp.sqrt(total(jax.lax.map(lambda row: squared_distances(rows, row), rows)))
    usable = jnp.isfinite(lengths(rows, active, total))
    return jnp.where(jnp.outer(usable, usable), apart, jnp.inf)
