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
    """Takes the median of each coordinate over the rows; of an even number, the mean of the two middle values.

    It sorts the rows of every coordinate. Workers gather all rows, n gradients sent and held by each of n, or with
    `layout="transpose"` send two. The median of microbatches is that of their means, which nears the mean as they grow.
    Do not take it where noise is skewed and light-tailed: the median is not the mean, and the fixed point is another.

    Args:
        nan_policy: `"propagate"` (default) makes a coordinate NaN if any row's is; `"omit"` leaves these rows out of
            the coordinate's median.
        axis_name: the axis over workers, each of which passes its own gradient; None (default) for gradients stacked
            along the leading axis of each leaf.
        layout: `"gather"` (default), or `"transpose"` to gather a slice of all rows only, and the slices' results.

    Returns:
        An aggregator without state; `update` takes the extra argument `active`, booleans that say which rows take
        part.

    Raises:
        ValueError: if `nan_policy` or `layout` is unknown.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> aggregator = optkit.coordinate_median()
        >>> gradients = jnp.array([[1.0, 2.0], [3.0, 1.0], [100.0, 3.0]])
        >>> aggregator.update(gradients, aggregator.init(None))[0]
        Array([3., 2.], dtype=float32)

    Reference:
        Schaipp et al., "SGD with Clipping is Secretly Estimating the Median Gradient", 2024, arXiv:2402.12828.
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
        summary="The median of each coordinate over samples, microbatches or workers, in place of the mean.",
        paper=MEDIAN,
        also_known_as=("coordinate-wise median", "marginal median", "CWMed", "SMGD"),
        grid=0.1,
        stacked="microbatches",
    ),
)
