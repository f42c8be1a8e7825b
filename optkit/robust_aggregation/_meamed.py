"""MeaMed: the mean of each coordinate over the values nearest to its median.

Xie, Koyejo, Gupta, "Generalized Byzantine-tolerant SGD", 2018, arXiv:1802.10116. The median of an even number of values
is the lower one in the middle, as in public code.
"""

from typing import Any

import jax
from optax.experimental import aggregating

from optkit.core.types import AxisName
from optkit.core.workers.aggregation import Layout
from optkit.method import Method, Paper
from optkit.robust_aggregation._mean_around import mean_around
from optkit.robust_aggregation._order_statistics import entry

__all__ = ["meamed"]


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
        >>> import jax.numpy as jnp
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

    return mean_around("meamed", lower_median, byzantine, axis_name, layout)


METHODS = (
    Method(
        name="meamed",
        factory=meamed,
        kind="aggregator",
        summary="The mean of each coordinate over the workers whose values are nearest to its median.",
        paper=Paper("Generalized Byzantine-tolerant SGD", "Xie, Koyejo, Gupta", 2018, "1802.10116"),
        also_known_as=("mean around median",),
        example={"byzantine": 1},
        grid=0.1,
        stacked="microbatches",
    ),
)
