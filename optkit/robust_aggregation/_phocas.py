"""Phocas: the mean of each coordinate over the values nearest to its trimmed mean.

Xie, Koyejo, Gupta, "Phocas: dimensional Byzantine-resilient stochastic gradient descent", 2018, arXiv:1805.09682.
"""

from typing import Any

import jax
from optax.experimental import aggregating

from optkit.core.types import AxisName
from optkit.core.workers.aggregation import Layout
from optkit.method import Method, Paper
from optkit.robust_aggregation._mean_around import mean_around
from optkit.robust_aggregation._order_statistics import mean_between

__all__ = ["phocas"]


def phocas(byzantine: int, *, axis_name: AxisName | None = None, layout: Layout = "gather") -> aggregating.Aggregator:
    """Averages each coordinate over the values that are nearest to its trimmed mean (Phocas).

    The rule, for each coordinate of n rows::

        c = mean without the `byzantine` largest and the `byzantine` smallest values
        u = mean of the n - byzantine values nearest to c

    NaN counts as infinitely far.

    Use it when a known minority of the workers may send anything and the trimmed mean, which drops twice as many
    values, is too noisy. Avoid it when the workers' data differ much, because it then drops honest values; mix
    neighbours first (`nearest_neighbor_mixing`). Its price is a sort of each coordinate.

    Args:
        byzantine: How many values of each coordinate are dropped, at least 0; 0 gives the mean. The trimmed mean drops
            as many at each end. There must be more than twice as many rows.
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
        >>> aggregator = optkit.phocas(1)
        >>> gradients = jnp.array([[1.0, 2.0], [3.0, 1.0], [100.0, 3.0], [2.0, -9.0]])
        >>> aggregator.update(gradients, aggregator.init(None))[0]
        Array([2., 2.], dtype=float32)

    Reference:
        arXiv:1805.09682
    """

    def trimmed(ordered: list[jax.Array], count: Any, dropped: Any) -> jax.Array:
        return mean_between(ordered, dropped, count - 2 * dropped)

    return mean_around("phocas", trimmed, byzantine, axis_name, layout)


METHODS = (
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
