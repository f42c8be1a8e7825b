"""Nearest-neighbor averaging: averages the rows that are nearest to a worker's own value.

Farhadkhani, Guerraoui, Gupta, Hoang, Pinot, Stephan, "Robust Collaborative Learning with Linear Gradient Overhead",
2022, arXiv:2209.10931.
"""

import jax
import jax.numpy as jnp
import optax
from optax.experimental import aggregating

from optkit.core.extra_args import required
from optkit.core.precision import widen
from optkit.core.workers.aggregation import over_all_rows
from optkit.method import Method, Paper
from optkit.robust_aggregation._checks import check_byzantine, count_active
from optkit.robust_aggregation._distances import distances_from
from optkit.robust_aggregation._order_statistics import mean_of_smallest

__all__ = ["nearest_neighbor_average"]


def nearest_neighbor_average(byzantine: int) -> aggregating.Aggregator:
    """Averages the received values that are nearest to a worker's own value, which is included.

    The rule, for h values x_j that a worker receives, its own value x included::

        x = mean of the h - byzantine values x_j with the smallest distances ||x_j - x||

    Values that are not finite are never averaged. If too few are finite, or the worker's own value is not, the result
    is NaN.

    Use it for gossip, as `robust_mix(nearest_neighbor_average(byzantine))`, which passes the worker's own value and is
    the default of `monna`. Avoid it when there is a server, because the results of workers differ; take `trimmed_mean`
    there.

    Args:
        byzantine: How many values are left out, at least 0; 0 gives the mean. There must be more than twice as many
            rows.

    Returns:
        An aggregator of stacked rows, without state. Its `update` needs the extra argument `own`, a tree shaped like a
        row, and takes `active`, an array of booleans, one per row, that says which rows take part.

    Raises:
        ValueError: If `byzantine` is out of its range; from `update`, if there are too few rows.
        TypeError: From `update`, if `own` is missing.

    Example:
        >>> import optkit
        >>> aggregator = optkit.nearest_neighbor_average(1)
        >>> heard = jnp.array([[0.0, 0.0], [3e6, 4e6], [0.6, 0.0]])
        >>> aggregator.update(heard, aggregator.init(None), own=heard[0])[0]
        Array([0.3, 0. ], dtype=float32)

    Reference:
        arXiv:2209.10931
    """
    check_byzantine(byzantine)

    def update_fn(updates, state, params=None, *, own=None, active=None, total=None, **extra_args):
        del extra_args
        own = required(own, "own", "nearest_neighbor_average", "own=value")

        def rule(rows, own, *, total):
            if not jax.tree.leaves(rows):
                return rows
            method = f"nearest_neighbor_average with byzantine={byzantine}"
            heard = count_active(rows, active, 2 * byzantine + 1, method)
            kept = heard - byzantine if active is None else jnp.maximum(heard - byzantine, 1)
            return mean_of_smallest(rows, distances_from(rows, widen(own), active, total), kept)

        return over_all_rows("nearest_neighbor_average", rule, None)(updates, own, params=params, total=total), state

    return aggregating.Aggregator(optax.init_empty_state, update_fn)


COLLABORATIVE = Paper(
    "Robust Collaborative Learning with Linear Gradient Overhead", "Farhadkhani et al.", 2022, "2209.10931"
)

METHODS = (
    Method(
        name="nearest_neighbor_average",
        factory=nearest_neighbor_average,
        kind="function",
        summary="The mean of the received values nearest to a worker's own, for gossip with `robust_mix`.",
        paper=COLLABORATIVE,
        also_known_as=("NNA", "nearest neighbor averaging", "cva"),
    ),
)
