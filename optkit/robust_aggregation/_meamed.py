"""Means around a center: of each coordinate, over the values nearest to its median (MeaMed) or trimmed mean (Phocas).

Xie, Koyejo, Gupta, "Generalized Byzantine-tolerant SGD", 2018, arXiv:1802.10116 (MeaMed) and "Phocas: dimensional
Byzantine-resilient stochastic gradient descent", 2018, arXiv:1805.09682. The median of an even number of values is the
lower one in the middle, as in public code.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from optax.experimental import aggregating

from optkit.core.types import AxisName
from optkit.core.workers.aggregation import Layout, aggregator_of_rows
from optkit.method import Method, Paper
from optkit.robust_aggregation._order_statistics import (
    check_byzantine,
    count_rows,
    entry,
    mean_between,
    sort_coordinates,
)


def _mean_around(
    method: str, center: Callable[..., jax.Array], byzantine: int, axis_name: AxisName | None, layout: Layout
) -> aggregating.Aggregator:
    check_byzantine(byzantine)

    def rule(rows, *, active, total):
        del total
        if not jax.tree.leaves(rows):
            return rows
        count = count_rows(rows, active, 2 * byzantine + 1, f"{method} with byzantine={byzantine}")
        dropped = byzantine if active is None else jnp.minimum(byzantine, (count - 1) // 2)
        kept = count - dropped

        def mean(x):
            # The nearest values are neighbours in their order: those above replace those below while they are nearer.
            ordered = sort_coordinates(x, active)
            middle = center(ordered, count, dropped)
            distances = [jnp.abs(value - middle) for value in ordered]
            nearer = [(k < dropped) & (entry(distances, k + kept) < distances[k]) for k in range(byzantine)]
            return mean_between(ordered, sum((each.astype(jnp.int32) for each in nearer), 0), kept)

        return jax.tree.map(mean, rows)

    return aggregator_of_rows(method, rule, axis_name, layout)


def meamed(byzantine: int, *, axis_name: AxisName | None = None, layout: Layout = "gather") -> aggregating.Aggregator:
    """Averages each coordinate over the values nearest to its median (MeaMed).

    It keeps one value for each honest row, more than the trimmed mean, and no kept value is further from the median
    than an honest one; NaN counts as infinitely far.

    Args:
        byzantine: how many values are dropped, at least 0; 0 gives the mean. More than twice as many rows are needed.
        axis_name: the axis over workers, each of which passes its own gradient; None (default) for gradients stacked
            along the leading axis of each leaf.
        layout: `"gather"` (default), or `"transpose"` to send two gradients in place of n - 1, see `coordinate_median`.

    Returns:
        An aggregator without state; `update` takes the extra argument `active`, booleans that say which rows take
        part.

    Raises:
        ValueError: if an argument is out of its range; from `update`, if there are too few rows.

    Example:
        >>> import optkit
        >>> aggregator = optkit.meamed(1)
        >>> gradients = jnp.array([[1.0, 2.0], [3.0, 1.0], [100.0, 3.0], [2.0, -9.0]])
        >>> aggregator.update(gradients, aggregator.init(None))[0]
        Array([2., 2.], dtype=float32)

    Reference:
        Xie, Koyejo, Gupta, "Generalized Byzantine-tolerant SGD", 2018, arXiv:1802.10116.
    """

    def lower_median(ordered: list[jax.Array], count: Any, dropped: Any) -> jax.Array:
        del dropped
        return entry(ordered, (count - 1) // 2)

    return _mean_around("meamed", lower_median, byzantine, axis_name, layout)


def phocas(byzantine: int, *, axis_name: AxisName | None = None, layout: Layout = "gather") -> aggregating.Aggregator:
    """Averages each coordinate over the values nearest to its trimmed mean (Phocas).

    Args:
        byzantine: how many values are dropped, at each end for the trimmed mean, at least 0; 0 gives the mean. More
            than twice as many rows are needed.
        axis_name: the axis over workers, each of which passes its own gradient; None (default) for gradients stacked
            along the leading axis of each leaf.
        layout: `"gather"` (default), or `"transpose"` to send two gradients in place of n - 1, see `coordinate_median`.

    Returns:
        An aggregator without state; `update` takes the extra argument `active`, booleans that say which rows take
        part.

    Raises:
        ValueError: if an argument is out of its range; from `update`, if there are too few rows.

    Example:
        >>> import optkit
        >>> aggregator = optkit.phocas(1)
        >>> gradients = jnp.array([[1.0, 2.0], [3.0, 1.0], [100.0, 3.0], [2.0, -9.0]])
        >>> aggregator.update(gradients, aggregator.init(None))[0]
        Array([2., 2.], dtype=float32)

    Reference:
        Xie, Koyejo, Gupta, "Phocas: dimensional Byzantine-resilient stochastic gradient descent", 2018,
        arXiv:1805.09682.
    """

    def trimmed(ordered: list[jax.Array], count: Any, dropped: Any) -> jax.Array:
        return mean_between(ordered, dropped, count - 2 * dropped)

    return _mean_around("phocas", trimmed, byzantine, axis_name, layout)


METHODS = (
    Method(
        name="meamed",
        factory=meamed,
        kind="aggregator",
        summary="The mean of each coordinate over the workers whose values are nearest to its median.",
        paper=Paper("Generalized Byzantine-tolerant SGD", "Xie, Koyejo, Gupta", 2018, "1802.10116"),
        example={"byzantine": 1},
        grid=0.1,
        stacked="microbatches",
    ),
    Method(
        name="phocas",
        factory=phocas,
        kind="aggregator",
        summary="The mean of each coordinate over the workers whose values are nearest to its trimmed mean.",
        paper=Paper(
            "Phocas: dimensional Byzantine-resilient stochastic gradient descent",
            "Xie, Koyejo, Gupta",
            2018,
            "1805.09682",
        ),
        example={"byzantine": 1},
        grid=0.1,
        stacked="microbatches",
    ),
)
