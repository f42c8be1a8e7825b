"""The median of each coordinate over samples, microbatches or workers, in place of the mean.

Schaipp, Garrigos, Simsekli, Gower, "SGD with Clipping is Secretly Estimating the Median Gradient", 2024,
arXiv:2402.12828 (sample-median gradient descent).
"""

from typing import Any

import jax
import optax
from optax.experimental import aggregating

from optkit.core.workers.aggregation import Layout, aggregator_of_rows, check_option
from optkit.median_clipping._sample_median import NanPolicy, descend_along, median_of_rows


def coordinate_median(
    *, nan_policy: NanPolicy = "propagate", axis_name: str | None = None, layout: Layout = "gather"
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
        An aggregator without state; `update` takes the extra argument `present`, booleans that say which rows take
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

    def rule(rows, *, present, total):
        del total
        return median_of_rows(rows, nan_policy, present)

    return aggregator_of_rows("coordinate_median", rule, axis_name, layout)


def coordinate_median_sgd(
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: float | jax.Array = 0.0,
    mask: Any | None = None,
    *,
    nan_policy: NanPolicy = "propagate",
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Sample-median gradient descent: descends along the coordinate-wise median of several gradients.

    Args:
        learning_rate: a positive number or a schedule.
        weight_decay: strength of the decoupled decay, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        nan_policy: `"propagate"` (default) or `"omit"`, see `coordinate_median`.
        axis_name: the axis over workers, each of which passes its own gradient; None (default) for gradients stacked
            along the leading axis of each leaf.

    Returns:
        An optimizer without state, of gradients with a leading axis.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.coordinate_median_sgd(0.5)
        >>> params = jnp.zeros(2)
        >>> gradients = jnp.array([[1.0, 2.0], [3.0, 1.0], [100.0, 3.0]])
        >>> tx.update(gradients, tx.init(params), params)[0]
        Array([-1.5, -1. ], dtype=float32)

    Reference:
        Schaipp et al., "SGD with Clipping is Secretly Estimating the Median Gradient", 2024, arXiv:2402.12828.
    """
    aggregator = coordinate_median(nan_policy=nan_policy, axis_name=axis_name)
    return descend_along("coordinate_median_sgd", aggregator, learning_rate, weight_decay, mask)
