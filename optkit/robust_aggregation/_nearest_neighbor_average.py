"""Nearest-neighbour averaging: the mean of the rows nearest to a worker's own value.

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
    """Averages what is nearest to a worker's own value among what it hears, its own included.

    A rule for gossip: `robust_mix(nearest_neighbor_average(byzantine))`, the mixing of `monna`, calls it with the
    worker's own value, so results differ between workers. What is not finite is never taken; where too little
    is, or the own value is not, the result is NaN.

    Args:
        byzantine: how many rows are left out, at least 0; 0 gives the mean. More than twice as many rows are needed.

    Returns:
        An aggregator of stacked rows without state. Its `update` needs the extra argument `own`, a tree shaped like a
        row, and takes `active`, booleans that say which rows take part.

    Raises:
        ValueError: if `byzantine` is out of its range; from `update`, if there are too few rows.
        TypeError: from `update`, without `own`.

    Example:
        >>> import optkit
        >>> aggregator = optkit.nearest_neighbor_average(1)
        >>> heard = jnp.array([[0.0, 0.0], [3e6, 4e6], [0.6, 0.0]])
        >>> aggregator.update(heard, aggregator.init(None), own=heard[0])[0]
        Array([0.3, 0. ], dtype=float32)

    Reference:
        Farhadkhani et al., "Robust Collaborative Learning with Linear Gradient Overhead", 2022, arXiv:2209.10931.
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
        summary="The mean of what a worker hears that is nearest to its own value, for gossip with `robust_mix`.",
        paper=COLLABORATIVE,
        also_known_as=("NNA", "nearest neighbor averaging", "cva"),
    ),
)
