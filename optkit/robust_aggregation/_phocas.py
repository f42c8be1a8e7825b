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
        >>> import jax.numpy as jnp
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
