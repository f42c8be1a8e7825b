"""Aksel: the mean of the half of the rows that is nearest to the coordinate-wise median.

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

    It needs no number of attackers: fewer than half of the rows may be arbitrary. Rows that are not finite are never
    taken; if more than half are not, the result is NaN. The median of an even number of values is the lower one in the
    middle.

    Args:
        axis_name: the axis over workers, each of which passes its own gradient; None (default) for gradients stacked
            along the leading axis of each leaf.
        layout: `"gather"` (default), or `"transpose"` to send two gradients in place of n - 1, see `coordinate_median`.

    Returns:
        An aggregator without state; `update` takes the extra argument `active`, booleans that say which rows take
        part.

    Raises:
        ValueError: if `layout` is unknown.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> aggregator = optkit.aksel()
        >>> gradients = jnp.array([[1.0, 2.0], [1.2, 2.0], [99.0, -9.0]])
        >>> aggregator.update(gradients, aggregator.init(None))[0]
        Array([1.1, 2. ], dtype=float32)

    Reference:
        Boussetta et al., "AKSEL: Fast Byzantine SGD", 2020.
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
