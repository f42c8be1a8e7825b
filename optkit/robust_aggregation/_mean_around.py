"""Means around a center: each coordinate is averaged over the values that are nearest to a center."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from optax.experimental import aggregating

from optkit.core.types import AxisName
from optkit.core.workers.aggregation import Layout, aggregator_of_rows
from optkit.robust_aggregation._checks import check_byzantine, count_active
from optkit.robust_aggregation._order_statistics import entry, mean_between, sort_coordinates


def mean_around(
    method: str, center: Callable[..., jax.Array], byzantine: int, axis_name: AxisName | None, layout: Layout
) -> aggregating.Aggregator:
    """Makes an aggregator that averages each coordinate over the values nearest to a center.

    Args:
        method: The public name of the aggregator.
        center: A function that computes the center from the sorted values, their number, and how many are dropped.
        byzantine: How many values are dropped.
        axis_name: See `aggregator_of_rows`.
        layout: See `aggregator_of_rows`.
    """
    check_byzantine(byzantine)

    def rule(rows, *, active, total):
        del total
        if not jax.tree.leaves(rows):
            return rows
        count = count_active(rows, active, 2 * byzantine + 1, f"{method} with byzantine={byzantine}")
        dropped = byzantine if active is None else jnp.minimum(byzantine, (count - 1) // 2)
        kept = count - dropped

        def mean(x):
            # The nearest values are adjacent once sorted: values above replace values below as long as they are nearer.
            ordered = sort_coordinates(x, active)
            middle = center(ordered, count, dropped)
            distances = [jnp.abs(value - middle) for value in ordered]
            nearer = [(k < dropped) & (entry(distances, k + kept) < distances[k]) for k in range(byzantine)]
            return mean_between(ordered, sum((each.astype(jnp.int32) for each in nearer), 0), kept)

        return jax.tree.map(mean, rows)

    return aggregator_of_rows(method, rule, axis_name, layout)
