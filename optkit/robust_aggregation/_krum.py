"""Krum: selects the row whose nearest neighbours are closest to it.

Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
2017, arXiv:1703.02757 (first version: "Byzantine-Tolerant Machine Learning"). The default score is the paper's: squared
distances, summed over the n - f - 2 nearest rows. Public implementations sum distances (one of them over n - f - 1
rows) or their fourth powers.
"""

import jax
import jax.numpy as jnp
from optax.experimental import aggregating

from optkit.core.checks import check_count, check_range
from optkit.core.injection import refuse_arrays
from optkit.core.types import AxisName
from optkit.core.workers.aggregation import Layout, aggregator_of_rows
from optkit.method import Method, Paper
from optkit.robust_aggregation._checks import check_byzantine, count_active
from optkit.robust_aggregation._distances import distances_between
from optkit.robust_aggregation._order_statistics import mean_of_smallest

__all__ = ["krum"]


def krum(
    byzantine: int,
    selected: int | None = None,
    power: jax.typing.ArrayLike = 2.0,
    neighbors: int | None = None,
    *,
    axis_name: AxisName | None = None,
    layout: Layout = "gather",
) -> aggregating.Aggregator:
    """Takes the row that is closest to its nearest neighbours (Krum), or the mean of several such rows (multi-Krum).

    The rule, for n rows g_i::

        s_i = sum of ||g_i - g_j||^power over the n - byzantine - 2 rows g_j nearest to g_i
        u = mean of the `selected` rows g_i with the smallest scores s_i

    Rows that are not finite are never selected. If a selected row has fewer finite neighbours than its score sums, the
    result is NaN.

    Use it when a known minority of the workers may send anything and whole gradients must be kept or dropped. Avoid it
    when the workers' data differ much, because it then always selects from the same group. One row has the noise of one
    worker, so select several. It compares all pairs of rows, which takes n^2 operations per parameter.

    Args:
        byzantine: How many rows may be arbitrary, at least 0. There must be at least `2 * byzantine + 3` rows, unless
            `neighbors` is given.
        selected: How many rows are averaged, at least 1. Default: 1, which is Krum.
        power: Exponent of the distances that a score sums, above 0. Default: 2, as in the paper.
        neighbors: Over how many nearest rows a score sums, at least 1. Default: n - byzantine - 2, as in the paper.
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
        >>> import optkit
        >>> aggregator = optkit.krum(1)
        >>> gradients = jnp.array([[1.0, 2.0], [1.1, 2.0], [1.2, 2.0], [1.3, 2.1], [99.0, -9.0]])
        >>> aggregator.update(gradients, aggregator.init(None))[0]
        Array([1.1, 2. ], dtype=float32)

    Reference:
        arXiv:1703.02757
    """
    check_byzantine(byzantine)
    refuse_arrays(selected=selected, neighbors=neighbors)
    check_count("selected", selected)
    check_range("power", power, 0.0, low_open=True)
    check_count("neighbors", neighbors)
    taken = 1 if selected is None else selected
    least = max(taken, 2 * byzantine + 3 if neighbors is None else neighbors + 1)

    def rule(rows, *, active, total):
        if not jax.tree.leaves(rows):
            return rows
        count = count_active(rows, active, least, f"krum with {byzantine=}, selected={taken} and {neighbors=}")
        apart = distances_between(rows, active, total)
        others = jnp.sort(jnp.where(jnp.eye(len(apart), dtype=bool), jnp.inf, apart))
        summed = jnp.maximum(count - byzantine - 2 if neighbors is None else neighbors, 1)

        def score(ordered):
            # The root of s(i), which orders the rows alike, by way of the largest: powers neither overflow nor vanish.
            largest = ordered[summed - 1]
            parts = ordered / jnp.where(jnp.isfinite(largest) & (largest > 0), largest, 1)
            powers = jnp.where(jnp.arange(len(ordered)) < summed, parts**power, 0)
            return largest * jnp.where(largest > 0, jnp.sum(powers), 1) ** (1 / power)

        return mean_of_smallest(rows, jax.vmap(score)(others), taken)

    return aggregator_of_rows("krum", rule, axis_name, layout)


METHODS = (
    Method(
        name="krum",
        factory=krum,
        kind="aggregator",
        summary="The gradient, or the mean of several, that is closest to its nearest neighbours.",
        paper=Paper(
            "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
            "Blanchard et al.",
            2017,
            "1703.02757",
        ),
        also_known_as=("multi-Krum",),
        example={"byzantine": 0, "selected": 2},
        grid=0.1,
        stacked="microbatches",
    ),
)
