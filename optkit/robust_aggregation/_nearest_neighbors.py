"""Nearest neighbours: averages over the rows nearest to a row.

Before another rule (mixing): Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan, "Fixing by Mixing: A Recipe for
Optimal Byzantine ML under Heterogeneity", 2023, arXiv:2302.01772. Around a worker's own value (averaging): Farhadkhani,
Guerraoui, Gupta, Hoang, Pinot, Stephan, "Robust Collaborative Learning with Linear Gradient Overhead", 2022,
arXiv:2209.10931.
"""

import jax
import jax.numpy as jnp
import optax
from optax.experimental import aggregating

from optkit.core.extra_args import required
from optkit.core.injection import refuse_arrays
from optkit.core.precision import widen
from optkit.core.types import AxisName
from optkit.core.workers.aggregation import Layout, check_layout, over_all_rows, replace_rows
from optkit.core.workers.rows import sum_rows
from optkit.method import Method, Paper
from optkit.robust_aggregation._order_statistics import (
    check_byzantine,
    count_rows,
    distances_between,
    distances_from,
    mean_of_smallest,
    nan_unless,
    require_slices,
    smallest,
)
from optkit.robust_aggregation._trimmed_mean import trimmed_mean


def nearest_neighbor_mixing(
    aggregator: aggregating.Aggregator,
    byzantine: int,
    *,
    axis_name: AxisName | None = None,
    layout: Layout = "gather",
) -> aggregating.Aggregator:
    """Replaces each row by the mean of the rows nearest to it, before another rule aggregates them.

    Honest rows come closer to each other, so that rules withstand attacks on workers whose data differ. All pairs of
    rows are compared: n^2 operations a parameter, and as many to mix.

    Args:
        aggregator: the rule that follows, of stacked rows (without an axis name), for example `trimmed_mean(1)`.
        byzantine: how many rows each mean leaves out, at least 0; more than twice as many rows are needed. Rows that
            are not finite are always left out; if there are more of them, the result is NaN.
        axis_name: the axis over workers, each of which passes its own gradient; None (default) for gradients stacked
            along the leading axis of each leaf.
        layout: `"gather"` (default), or `"transpose"` to send two gradients in place of n - 1, see `coordinate_median`.

    Returns:
        An aggregator with the state of the rule that follows; `update` takes the extra argument `active`, booleans
        that say which rows take part.

    Raises:
        ValueError: if an argument is out of its range, or with `layout="transpose"` the rule has a state or sees whole
            rows only; from `update`, if there are too few rows.

    Example:
        >>> import optkit
        >>> aggregator = optkit.nearest_neighbor_mixing(optkit.trimmed_mean(1), 1)
        >>> gradients = jnp.array([[1.0, 2.0], [3.0, 2.0], [5.0, 2.0], [99.0, -9.0]])
        >>> aggregator.update(gradients, aggregator.init(None))[0]
        Array([3., 2.], dtype=float32)

    Reference:
        Allouah et al., "Fixing by Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity", 2023,
        arXiv:2302.01772.
    """
    check_byzantine(byzantine)
    refuse_arrays(aggregator=aggregator)
    check_layout(axis_name, layout)
    if layout == "transpose":
        require_slices(aggregator, "nearest_neighbor_mixing")

    def update_fn(updates, state, params=None, *, active=None, total=None, **extra_args):
        kept_state = state

        def rule(rows, near, *, total):
            nonlocal kept_state
            del near
            if not jax.tree.leaves(rows):
                return rows
            method = f"nearest_neighbor_mixing with byzantine={byzantine}"
            count = count_rows(rows, active, 2 * byzantine + 1, method)
            apart = distances_between(rows, active, total)
            usable = jnp.any(jnp.isfinite(apart), axis=1)
            needed = jnp.maximum(count - byzantine, 1)
            finite = replace_rows(rows, usable, 0.0)

            def mix(apart):
                marked = (smallest(apart, needed) & usable).astype(apart.dtype)
                return sum_rows(finite, marked / jnp.sum(marked))

            mixed = nan_unless(jnp.sum(usable) >= needed, jax.vmap(mix)(apart))  # Y = M X
            aggregate, kept_state = aggregator.update(
                mixed, state, None, **extra_args, active=active, **({} if layout == "gather" else {"total": total})
            )
            return aggregate

        over = over_all_rows("nearest_neighbor_mixing", rule, axis_name, layout)
        return over(updates, params=params, total=total), kept_state

    return aggregating.Aggregator(aggregator.init, update_fn)


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
            heard = count_rows(rows, active, 2 * byzantine + 1, method)
            kept = heard - byzantine if active is None else jnp.maximum(heard - byzantine, 1)
            return mean_of_smallest(rows, distances_from(rows, widen(own), active, total), kept)

        return over_all_rows("nearest_neighbor_average", rule, None)(updates, own, params=params, total=total), state

    return aggregating.Aggregator(optax.init_empty_state, update_fn)


METHODS = (
    Method(
        name="nearest_neighbor_mixing",
        factory=nearest_neighbor_mixing,
        kind="aggregator",
        summary="Replaces each worker's gradient by the mean of those nearest to it before a robust rule (NNM).",
        paper=Paper(
            "Fixing by Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity",
            "Allouah et al.",
            2023,
            "2302.01772",
        ),
        example={"aggregator": trimmed_mean(1), "byzantine": 1},
        grid=0.1,
        stacked="microbatches",
        golden="nnm",
    ),
)
