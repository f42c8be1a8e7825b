"""Comparative gradient elimination: averages the shortest rows.

Gupta, Liu, Vaidya, "Byzantine Fault-Tolerant Distributed Machine Learning Using Stochastic Gradient Descent (SGD) and
Norm-Based Comparative Gradient Elimination (CGE)", 2020, arXiv:2008.04699. It averages, as public code does.
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

    The rule, for n rows g_i::

        u = mean of the n - byzantine rows g_i with the smallest norms ||g_i||

    Rows that are not finite count as the longest. If there are more of them than `byzantine`, the result is NaN.

    Use it when it is enough to remove gradients that are too long: it is the cheapest rule, with one norm per row.
    Avoid it when attackers may keep the length of their gradients, because it then drops none of them; reversed
    gradients pass.

    Args:
        byzantine: How many rows are dropped, at least 0; 0 gives the mean. There must be more than twice as many rows.
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
        >>> aggregator = optkit.cge(1)
        >>> gradients = jnp.array([[1.0, 2.0], [3.0, 0.0], [99.0, -9.0]])
        >>> aggregator.update(gradients, aggregator.init(None))[0]
        Array([2., 1.], dtype=float32)

    Reference:
        arXiv:2008.04699
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
        summary="The mean of the workers' gradients, without the longest ones.",
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
