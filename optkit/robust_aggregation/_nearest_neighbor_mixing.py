"""Nearest-neighbor mixing: replaces each row by the mean of the rows nearest to it before another rule aggregates them.

Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan, "Fixing by Mixing: A Recipe for Optimal Byzantine ML under
Heterogeneity", 2023, arXiv:2302.01772.
"""

import jax
import jax.numpy as jnp
from optax.experimental import aggregating

from optkit.core.injection import refuse_arrays
from optkit.core.types import AxisName
from optkit.core.workers.aggregation import Layout, check_layout, nan_unless, over_all_rows, replace_rows
from optkit.core.workers.rows import sum_rows
from optkit.method import Method, Paper
from optkit.robust_aggregation._checks import check_byzantine, count_active, require_slices
from optkit.robust_aggregation._distances import distances_between
from optkit.robust_aggregation._order_statistics import smallest
from optkit.robust_aggregation._trimmed_mean import trimmed_mean

__all__ = ["nearest_neighbor_mixing"]


def nearest_neighbor_mixing(
    aggregator: aggregating.Aggregator,
    byzantine: int,
    *,
    axis_name: AxisName | None = None,
    layout: Layout = "gather",
) -> aggregating.Aggregator:
    """Replaces each row by the mean of the rows nearest to it, before another rule aggregates them.

    The rule, for n rows g_i::

        y_i = mean of the n - byzantine rows g_j nearest to g_i, itself included
        u = aggregator(y_1, ..., y_n)

    Use it when the workers' data differ: honest rows come closer to each other, so that the rule that follows
    withstands attacks. Avoid it when gradients are large and workers are many, because it compares all pairs of rows,
    which takes n^2 operations per parameter, and as many again to mix them.

    Args:
        aggregator: The rule that follows, for stacked rows (without an axis name), for example `trimmed_mean(1)`.
        byzantine: How many rows each mean leaves out, at least 0. There must be more than twice as many rows. Rows that
            are not finite are always left out; if there are more of them than `byzantine`, the result is NaN.
        axis_name: Name of the axis over workers. Each worker then passes its own gradient. None (the default):
            gradients have a leading axis, one row per worker.
        layout: How workers exchange gradients. With "gather" each worker sends n - 1 gradients and holds n. With
            "transpose" it sends about two and holds about one, in slices; this needs `axis_name`. Default: "gather".

    Returns:
        An aggregator with the state of the rule that follows. Its `update` takes the extra argument `active`: an array
        of booleans, one per row, that says which rows take part.

    Raises:
        ValueError: If an argument is out of its range, or if `layout` is "transpose" and the rule that follows has a
            state or needs whole rows; from `update`, if there are too few rows.

    Example:
        >>> import optkit
        >>> aggregator = optkit.nearest_neighbor_mixing(optkit.trimmed_mean(1), 1)
        >>> gradients = jnp.array([[1.0, 2.0], [3.0, 2.0], [5.0, 2.0], [99.0, -9.0]])
        >>> aggregator.update(gradients, aggregator.init(None))[0]
        Array([3., 2.], dtype=float32)

    Reference:
        arXiv:2302.01772
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
            count = count_active(rows, active, 2 * byzantine + 1, method)
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


METHODS = (
    Method(
        name="nearest_neighbor_mixing",
        factory=nearest_neighbor_mixing,
        kind="aggregator",
        summary="Replaces each worker's gradient by the mean of those nearest to it, before a robust rule.",
        paper=Paper(
            "Fixing by Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity",
            "Allouah et al.",
            2023,
            "2302.01772",
        ),
        also_known_as=("NNM", "cenna"),
        example={"aggregator": trimmed_mean(1), "byzantine": 1},
        grid=0.1,
        stacked="microbatches",
        golden="nnm",
    ),
)
