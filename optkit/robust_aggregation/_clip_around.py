"""Clipping around a center: rows pull the center by their differences from it, each clipped to a radius."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from optkit.core.workers.aggregation import Total, differences, nan_unless, replace_rows
from optkit.core.workers.rows import sum_rows
from optkit.robust_aggregation._distances import distances_from


def clip_around(
    rows: Any,
    center: Any,
    radius: jax.typing.ArrayLike,
    iterations: int,
    divisor: Any,
    active: jax.Array | None,
    total: Total,
) -> Any:
    """Moves a center by clipped differences; rows that are not finite do not move it. If none is finite, it is NaN."""

    def iteration(_, center):
        norms = distances_from(rows, center, active, total)
        near = jnp.isfinite(norms)
        weights = jnp.where(near, jnp.minimum(1, radius / jnp.where(norms > 0, norms, 1)), 0)
        moves = sum_rows(replace_rows(differences(rows, center), near, 0.0), weights / divisor)
        moved = optax.tree.add(center, moves)  # v + (1/n) sum_i clip(x_i - v, radius)
        nobody = False if active is None else ~jnp.any(active)
        return nan_unless(jnp.any(near) | nobody, moved)

    return jax.lax.fori_loop(0, iterations, iteration, center)
