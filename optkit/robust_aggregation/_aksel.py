"""Aksel: averages the half of the rows that is nearest to their coordinate-wise median.

Boussetta, El-Mhamdi, Guerraoui, Maurer, Rouault, "AKSEL: Fast Byzantine SGD", 2020 (OPODIS), in the form of public code
that keeps half of the rows.
"""

import jax
from optax.experimental import aggregating

from optkit.core.types import AxisName
from optkit.core.workers.aggregation import Layout, aggregator_of_rows
from optkit.method import Method, Paper
from optkit.robust_aggregation._checks import count_active
from optkit.robust_aggregation._distances import distances_from
from optkit.robust_aggregation._order_statistics import entry, mean_of_smallest, sort_coordinates

__all__ = ["aksel"]


def aksel(*, axis_name: AxisName | None = None, layout: Layout = "gather") -> aggregating.Aggregator:
    """Averages the half of the rows that is nearest to their coordinate-wise median.

    The rule, for n rows g_i, with the lower of the two middle values as the median of an even number::

        c = coordinate-wise median of the rows
        u = mean of the (n + 1) // 2 rows g_i with the smallest distances ||g_i - c||

    Rows that are not finite are never averaged. If more than half of the rows are not finite, the result is NaN.

    Use it when the number of attackers is unknown: fewer than half of the rows may be arbitrary. Avoid it when few
    workers are expected to fail, because it drops half of the gradients in every step, and the mean of the rest has
    more noise. Its price is a sort of each coordinate and one distance per row.

    Args:
        axis_name: Name of the axis over workers. Each worker then passes its own gradient. None (the default):
            gradients have a leading axis, one row per worker.
        layout: How workers exchange gradients. With "gather" each worker sends n - 1 gradients and holds n. With
            "transpose" it sends about two and holds about one, in slices; this needs `axis_name`. Default: "gather".

    Returns:
        An aggregator without state. Its `update` takes the extra argument `active`: an array of booleans, one per row,
        that says which rows take part.

    Raises:
        ValueError: If `layout` is unknown, or is "transpose" without `axis_name`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> aggregator = optkit.aksel()
        >>> gradients = jnp.array([[1.0, 2.0], [1.2, 2.0], [99.0, -9.0]])
        >>> aggregator.update(gradients, aggregator.init(None))[0]
        Array([1.1, 2. ], dtype=float32)

    Reference:
        Boussetta et al., 2020 (OPODIS), not on arXiv
    """

    def rule(rows, *, active, total):
        if not jax.tree.leaves(rows):
            return rows
        count = count_active(rows, active, 1, "aksel")
        median = jax.tree.map(lambda x: entry(sort_coordinates(x, active), (count - 1) // 2), rows)
        return mean_of_smallest(rows, distances_from(rows, median, active, total), (count + 1) // 2)

    return aggregator_of_rows("aksel", rule, axis_name, layout)


METHODS = (
    Method(
        name="aksel",
        factory=aksel,
        kind="aggregator",
        summary="The mean of the half of the workers' gradients that is nearest to their coordinate-wise median.",
        paper=Paper("AKSEL: Fast Byzantine SGD", "Boussetta et al.", 2020),
        grid=0.1,
        stacked="microbatches",
    ),
)
