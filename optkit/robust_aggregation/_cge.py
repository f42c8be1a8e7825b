"""Comparative gradient elimination: the mean of the shortest rows.

Gupta, Liu, Vaidya, "Byzantine Fault-Tolerant Distributed Machine Learning Using Stochastic Gradient Descent (SGD) and
Norm-Based Comparative Gradient Elimination (CGE)", 2020, arXiv:2008.04699. The mean is that of public code.
"""

import jax
from optax.experimental import aggregating

from optkit.core.types import AxisName
from optkit.core.workers.aggregation import Layout, aggregator_of_rows
from optkit.method import Method, Paper
from optkit.robust_aggregation._checks import check_byzantine, count_active
from optkit.robust_aggregation._distances import lengths
from optkit.robust_aggregation._order_statistics import mean_of_smallest

__all__ = ["cge"]


def cge(byzantine: int, *, axis_name: AxisName | None = None, layout: Layout = "gather") -> aggregating.Aggregator:
    """Averages the rows without the longest ones (comparative gradient elimination).

    One norm a row: the cheapest rule. An attack that keeps its length passes: reversed gradients do. Rows that are not
    finite count as the longest; if there are more of them than `byzantine`, the result is NaN.

    Args:
        byzantine: how many rows are dropped, at least 0; 0 gives the mean. More than twice as many rows are needed.
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
        >>> aggregator = optkit.cge(1)
        >>> gradients = jnp.array([[1.0, 2.0], [3.0, 0.0], [99.0, -9.0]])
        >>> aggregator.update(gradients, aggregator.init(None))[0]
        Array([2., 1.], dtype=float32)

    Reference:
        Gupta, Liu, Vaidya, "Byzantine Fault-Tolerant Distributed Machine Learning Using Stochastic Gradient Descent
        (SGD) and Norm-Based Comparative Gradient Elimination (CGE)", 2020, arXiv:2008.04699.
    """
    check_byzantine(byzantine)

    def rule(rows, *, active, total):
        if not jax.tree.leaves(rows):
            return rows
        count = count_active(rows, active, 2 * byzantine + 1, f"cge with byzantine={byzantine}")
        return mean_of_smallest(rows, lengths(rows, active, total), count - byzantine)

    return aggregator_of_rows("cge", rule, axis_name, layout)


METHODS = (
    Method(
        name="cge",
        factory=cge,
        kind="aggregator",
        summary="The mean of the workers' gradients without the longest.",
        paper=Paper(
            "Byzantine Fault-Tolerant Distributed Machine Learning Using Stochastic Gradient Descent (SGD) and"
            " Norm-Based Comparative Gradient Elimination (CGE)",
            "Gupta, Liu, Vaidya",
            2020,
            "2008.04699",
        ),
        also_known_as=("comparative gradient elimination",),
        example={"byzantine": 1},
        grid=0.1,
        stacked="microbatches",
    ),
)
