"""Krum: the row whose nearest others are nearest.

Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
2017, arXiv:1703.02757 (there "Byzantine-Tolerant Machine Learning"). The default is the paper's score, squared
distances summed over the n - f - 2 nearest; public codes sum distances (over n - f - 1 in one of them) or their fourth
powers.
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
    """Takes the row that lies nearest to its nearest others (Krum), or the mean of several such rows (multi-Krum).

    All pairs of rows are compared: n^2 operations a parameter. Rows that are not finite are never taken; where a score
    lacks as many finite neighbours as it sums, the result is NaN. One row has the noise of one worker: take several. Do
    not take it where workers' data differ much: it always chooses from the same group.

    Args:
        byzantine: how many rows may be arbitrary, at least 0; more than twice as many and two more are needed.
        selected: how many rows are averaged, at least 1. None: 1, Krum.
        power: of the distances that a score sums, above 0; default 2, the paper's.
        neighbors: over how many nearest others, at least 1; default the paper's, the number of rows less `byzantine`
            less 2.
        axis_name: the axis over workers, each of which passes its own gradient; None (default) for gradients stacked
            along the leading axis of each leaf.
        layout: `"gather"` (default), or `"transpose"` to send two gradients in place of n - 1, see `coordinate_median`.

    Returns:
        An aggregator without state; `update` takes the extra argument `active`, booleans that say which rows take
        part.

    Raises:
        ValueError: if an argument is out of its range; from `update`, if there are too few rows.

    Example:
        >>> import optkit
        >>> aggregator = optkit.krum(1)
        >>> gradients = jnp.array([[1.0, 2.0], [1.1, 2.0], [1.2, 2.0], [1.3, 2.1], [99.0, -9.0]])
        >>> aggregator.update(gradients, aggregator.init(None))[0]
        Array([1.1, 2. ], dtype=float32)

    Reference:
        Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", 2017,
        arXiv:1703.02757.
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
        summary="The workers' gradients that lie nearest to their nearest others.",
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
