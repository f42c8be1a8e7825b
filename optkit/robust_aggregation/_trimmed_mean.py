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
    """Averages each coordinate over the rows, without its largest and its smallest values.

    Each coordinate lies between the smallest and the largest honest value, whatever as many rows as `byzantine` hold;
    NaN counts as the largest value. Do not take it where workers' data differ much: what is trimmed are then honest
    workers; mix neighbours first (`nearest_neighbor_mixing`).

    Args:
        byzantine: how many values are dropped at each end, at least 0; 0 gives the mean. More than twice as many rows
            are needed.
        axis_name: the axis over workers, each of which passes its own gradient; None (default) for gradients stacked
            along the leading axis of each leaf.
        layout: `"gather"` (default), or `"transpose"` to send two gradients in place of n - 1, see `coordinate_median`.

    Returns:
        An aggregator without state; `update` takes the extra argument `active`, booleans that say which rows take
        part. Of few active ones it drops fewer, so that one or two stay.

    Raises:
        ValueError: if an argument is out of its range; from `update`, if there are too few rows.

    Example:
        >>> import optkit
        >>> aggregator = optkit.trimmed_mean(1)
        >>> gradients = jnp.array([[1.0, 2.0], [3.0, 1.0], [100.0, 3.0], [4.0, -9.0]])
        >>> aggregator.update(gradients, aggregator.init(None))[0]
        Array([3.5, 1.5], dtype=float32)

    Reference:
        Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", 2018, arXiv:1803.01498.
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
