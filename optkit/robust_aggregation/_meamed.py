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
    """Averages each coordinate over the values that are nearest to its median (MeaMed).

    The rule, for each coordinate of n rows, with the lower of the two middle values as the median of an even number::

        c = median of the n values
        u = mean of the n - byzantine values nearest to c

    It keeps one value per honest row, more than `trimmed_mean` does, and no kept value is further from the median than
    the furthest honest one. NaN counts as infinitely far.

    Use it when a known minority of the workers may send anything and the trimmed mean is too noisy. Avoid it when the
    workers' data differ much, because it then drops honest values; mix neighbours first (`nearest_neighbor_mixing`).
    Its price is a sort of each coordinate.

    Args:
        byzantine: How many values of each coordinate are dropped, at least 0; 0 gives the mean. There must be more than
            twice as many rows.
        axis_name: Name of the axis over workers. Each worker then passes its own gradient. None (the default):
            gradients have a leading axis, one row per worker.
        layout: How workers exchange gradients. With "gather" each worker sends n - 1 gradients and holds n. With
            "transpose" it sends about two and holds about one, in slices; this needs `axis_name`. Default: "gather".

    Returns:
        An aggregator without state. Its `update` takes the extra argument `active`: an array of booleans, one per row,
        that says which rows take part.

    Raises:
        ValueError: If an argument is out of its range; from `update`, if there are too few rows.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> aggregator = optkit.meamed(1)
        >>> gradients = jnp.array([[1.0, 2.0], [3.0, 1.0], [100.0, 3.0], [2.0, -9.0]])
        >>> aggregator.update(gradients, aggregator.init(None))[0]
        Array([2., 2.], dtype=float32)

    Reference:
        arXiv:1802.10116
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
