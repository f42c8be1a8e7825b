"""The trimmed mean: of each coordinate, without its largest and smallest values.

Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", 2018,
arXiv:1803.01498.
"""

import jax
import jax.numpy as jnp
from optax.experimental import aggregating

from optkit.core.types import AxisName
from optkit.core.workers.aggregation import Layout, aggregator_of_rows
from optkit.method import Method, Paper
from optkit.robust_aggregation._checks import check_byzantine, count_active
from optkit.robust_aggregation._order_statistics import mean_between, sort_coordinates

__all__ = ["trimmed_mean"]


def trimmed_mean(
    byzantine: int, *, axis_name: AxisName | None = None, layout: Layout = "gather"
) -> aggregating.Aggregator:
    """Averages each coordinate over the rows, without its largest and smallest values.

    The rule, for each coordinate of n rows g_i, sorted so that g_(1) <= ... <= g_(n), with f = byzantine::

        u = (g_(f+1) + ... + g_(n-f)) / (n - 2 * f)

    Each coordinate of the result lies between the smallest and the largest honest value, whatever `byzantine` of the
    rows contain. NaN counts as the largest value.

    Use it when a known minority of the workers may send anything. Avoid it when the workers' data differ much, because
    it then trims honest workers; mix neighbours first (`nearest_neighbor_mixing`). Its price is a sort of each
    coordinate.

    Args:
        byzantine: How many values are dropped at each end, at least 0; 0 gives the mean. There must be more than twice
            as many rows.
        axis_name: Name of the axis over workers. Each worker then passes its own gradient. None (the default):
            gradients have a leading axis, one row per worker.
        layout: How workers exchange gradients. With "gather" each worker sends n - 1 gradients and holds n. With
            "transpose" it sends about two and holds about one, in slices; this needs `axis_name`. Default: "gather".

    Returns:
        An aggregator without state. Its `update` takes the extra argument `active`: an array of booleans, one per row,
        that says which rows take part. If few rows are active, it drops fewer, so that one or two remain.

    Raises:
        ValueError: If an argument is out of its range; from `update`, if there are too few rows.

    Example:
        >>> import optkit
        >>> aggregator = optkit.trimmed_mean(1)
        >>> gradients = jnp.array([[1.0, 2.0], [3.0, 1.0], [100.0, 3.0], [4.0, -9.0]])
        >>> aggregator.update(gradients, aggregator.init(None))[0]
        Array([3.5, 1.5], dtype=float32)

    Reference:
        arXiv:1803.01498
    """
    check_byzantine(byzantine)

    def rule(rows, *, active, total):
        del total
        if not jax.tree.leaves(rows):
            return rows
        count = count_active(rows, active, 2 * byzantine + 1, f"trimmed_mean with byzantine={byzantine}")
        trimmed = byzantine if active is None else jnp.minimum(byzantine, (count - 1) // 2)

        def mean(x):
            return mean_between(sort_coordinates(x, active), trimmed, count - 2 * trimmed)

        return jax.tree.map(mean, rows)

    return aggregator_of_rows("trimmed_mean", rule, axis_name, layout)


METHODS = (
    Method(
        name="trimmed_mean",
        factory=trimmed_mean,
        kind="aggregator",
        summary="The mean of each coordinate over workers, without its largest and smallest values.",
        paper=Paper(
            "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", "Yin et al.", 2018, "1803.01498"
        ),
        also_known_as=("coordinate-wise trimmed mean", "TrMean", "CWTM"),
        example={"byzantine": 1},
        grid=0.1,
        stacked="microbatches",
    ),
)
