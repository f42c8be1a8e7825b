"""The median of each coordinate over samples, microbatches or workers, in place of the mean.

Schaipp, Garrigos, Simsekli, Gower, "SGD with Clipping is Secretly Estimating the Median Gradient", 2024,
arXiv:2402.12828 (sample-median gradient descent).
"""

from optax.experimental import aggregating

from optkit.core.checks import check_option
from optkit.core.types import AxisName
from optkit.core.workers.aggregation import Layout, aggregator_of_rows
from optkit.median_clipping._papers import MEDIAN
from optkit.median_clipping._sample_median import NanPolicy, median_of_rows
from optkit.method import Method

__all__ = ["coordinate_median"]


def coordinate_median(
    *, nan_policy: NanPolicy = "propagate", axis_name: AxisName | None = None, layout: Layout = "gather"
) -> aggregating.Aggregator:
    """Takes the median of each coordinate over the rows; for an even number, the mean of the two middle values.

    The rule, where row i is the gradient of sample, microbatch or worker i, and j is a coordinate::

        u_j = median over i of g_ij

    Use it when some rows may be wrong or have heavy-tailed noise. The median of microbatches is that of their means,
    which comes closer to the mean as they grow. Avoid it when noise is skewed and light-tailed, because the median is
    then not the mean and training ends at another point. It sorts the rows of every coordinate. Workers gather all
    rows: each of n workers sends and holds n gradients; with `layout="transpose"` it sends only two.

    Args:
        nan_policy: `"propagate"` makes a coordinate NaN if it is NaN in any row; `"omit"` leaves these rows out of the
            median of the coordinate. Default: `"propagate"`.
        axis_name: Name of the axis over workers. Each worker passes its own gradient. None (the default): gradients
            have a leading axis, one row per sample, microbatch or worker.
        layout: `"gather"` gathers all rows on every worker. `"transpose"` gives each worker a slice of all rows, and
            then gathers the results of the slices. Default: `"gather"`.

    Returns:
        An aggregator without state. Its `update` takes the extra argument `active`, booleans that say which rows take
        part.

    Raises:
        ValueError: If `nan_policy` or `layout` is unknown.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> aggregator = optkit.coordinate_median()
        >>> gradients = jnp.array([[1.0, 2.0], [3.0, 1.0], [100.0, 3.0]])
        >>> aggregator.update(gradients, aggregator.init(None))[0]
        Array([3., 2.], dtype=float32)

    Reference:
        arXiv:2402.12828
    """
    check_option("nan_policy", nan_policy, NanPolicy)

    def rule(rows, *, active, total):
        del total
        return median_of_rows(rows, nan_policy, active)

    return aggregator_of_rows("coordinate_median", rule, axis_name, layout)


METHODS = (
    Method(
        name="coordinate_median",
        factory=coordinate_median,
        kind="aggregator",
        summary="Takes the median of each coordinate over samples, microbatches or workers.",
        paper=MEDIAN,
        also_known_as=("coordinate-wise median", "marginal median", "CWMed", "SMGD"),
        grid=0.1,
        stacked="microbatches",
    ),
)
