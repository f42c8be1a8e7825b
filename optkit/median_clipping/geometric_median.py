"""The geometric median over samples, microbatches or workers, by smoothed Weiszfeld iterations (RFA).

Pillutla, Kakade, Harchaoui, "Robust Aggregation for Federated Learning", 2019, arXiv:1912.13445. In place of the mean
gradient: Schaipp, Garrigos, Simsekli, Gower, "SGD with Clipping is Secretly Estimating the Median Gradient", 2024,
arXiv:2402.12828 (sample-median gradient descent). Distances are computed from differences, not from inner products,
which would lose half of the digits.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.experimental import aggregating

from optkit.core.aggregation import (
    Layout,
    aggregator_of_rows,
    check_option,
    mean_of_rows,
    replace_rows,
    squared_distances,
)
from optkit.core.checks import check_count, check_range
from optkit.median_clipping.sample_median import NanPolicy, Start, descend_along, median_of_rows


def geometric_median(
    iterations: int = 8,
    smoothing: jax.typing.ArrayLike = 1e-8,
    *,
    start: Start = "mean",
    per_leaf: bool = False,
    nan_policy: NanPolicy = "propagate",
    axis_name: str | None = None,
    layout: Layout = "gather",
) -> aggregating.Aggregator:
    """Takes the geometric median of the rows, the point with the least mean distance, by Weiszfeld's iterations.

    Each iteration is a mean of the rows, weighted by the reciprocals of their distances, and reads all of them twice;
    the error falls linearly. A row that coincides with the start holds it there, by the weight `1 / smoothing`. Workers
    gather all rows: n gradients sent and held by each of n. RFA is `geometric_median(iterations=3, smoothing=0.1,
    start="zeros")`. Do not take it where noise is skewed and light-tailed: the median is not the mean, and the fixed
    point is another.

    Args:
        iterations: how many, at least 1; default 8.
        smoothing: distances below it count as it, above 0, in units of the gradient; default 1e-8. Where it is larger
            than all distances, the result is the mean.
        start: what they start from: `"zeros"`, the `"mean"` (default), or the coordinate-wise `"median"`.
        per_leaf: whether each leaf has its own median, which is neither paper's; by default the tree is one vector.
        nan_policy: `"propagate"` (default), or `"omit"` to leave rows out that are not finite.
        axis_name: the axis over workers, each of which passes its own gradient; None (default) for gradients stacked
            along the leading axis of each leaf.
        layout: `"gather"` (default), or `"transpose"` to gather a slice of all rows only, and the slices' results; not
            with `per_leaf`.

    Returns:
        An aggregator without state; `update` takes the extra argument `present`, booleans that say which rows take
        part.

    Raises:
        ValueError: if an argument is out of its range, or `layout` does not fit the others.

    Example:
        >>> import optkit
        >>> aggregator = optkit.geometric_median(iterations=50)
        >>> gradients = jnp.array([[0.0, 1.0], [0.0, -1.0], [1.0, 0.0], [-1000.0, 0.0]])
        >>> aggregator.update(gradients, aggregator.init(None))[0].round(3) + 0.0
        Array([0., 0.], dtype=float32)

    Reference:
        Pillutla, Kakade, Harchaoui, "Robust Aggregation for Federated Learning", 2019, arXiv:1912.13445; Schaipp et
        al., "SGD with Clipping is Secretly Estimating the Median Gradient", 2024, arXiv:2402.12828.
    """
    check_count("iterations", iterations)
    check_range("smoothing", smoothing, 0.0, low_open=True)
    check_option("start", start, Start)
    check_option("nan_policy", nan_policy, NanPolicy)
    if per_leaf and layout == "transpose":
        raise ValueError("layout='transpose' sees no leaves: per_leaf must be False with it, got True")

    def rule(rows, *, present, total):
        if not jax.tree.leaves(rows):
            return rows
        zeros = jax.tree.map(lambda x: jnp.zeros_like(x[0]), rows)
        weights = jnp.ones(len(jax.tree.leaves(rows)[0])) if present is None else present.astype(jnp.float32)
        if nan_policy == "omit":
            weights = jnp.where(jnp.isfinite(squared_distances(rows, zeros, total)), weights, 0.0)
        kept = None if present is None and nan_policy == "propagate" else weights > 0
        rows = rows if kept is None else replace_rows(rows, kept, 0.0)

        def iteration(_, center):
            distances = jnp.sqrt(squared_distances(rows, center, total))
            return mean_of_rows(rows, weights / jnp.maximum(distances, smoothing))  # Alg. 2, beta_i and their mean

        if start == "zeros":
            center = zeros
        elif start == "mean":
            center = mean_of_rows(rows, weights)
        else:
            center = median_of_rows(rows, nan_policy, kept)
        return jax.lax.fori_loop(0, iterations, iteration, center)

    def rule_per_leaf(rows, *, present, total):
        return jax.tree.map(lambda x: rule(x, present=present, total=total), rows)

    return aggregator_of_rows("geometric_median", rule_per_leaf if per_leaf else rule, axis_name, layout)


def geometric_median_sgd(
    learning_rate: optax.ScalarOrSchedule,
    iterations: int = 8,
    smoothing: jax.typing.ArrayLike = 1e-8,
    weight_decay: float | jax.Array = 0.0,
    mask: Any | None = None,
    *,
    start: Start = "mean",
    per_leaf: bool = False,
    nan_policy: NanPolicy = "propagate",
    axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Sample-median gradient descent: descends along the geometric median of several gradients.

    Args:
        learning_rate: a positive number or a schedule.
        iterations: how many of Weiszfeld's, at least 1; default 8.
        smoothing: distances below it count as it, above 0, in units of the gradient; default 1e-8.
        weight_decay: strength of the decoupled decay, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        start: `"zeros"`, `"mean"` (default) or `"median"`, see `geometric_median`.
        per_leaf: whether each leaf has its own median; by default the tree is one vector.
        nan_policy: `"propagate"` (default) or `"omit"`, see `geometric_median`.
        axis_name: the axis over workers, each of which passes its own gradient; None (default) for gradients stacked
            along the leading axis of each leaf.

    Returns:
        An optimizer without state, of gradients with a leading axis.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> import optkit
        >>> tx = optkit.geometric_median_sgd(0.5, iterations=50)
        >>> params = jnp.zeros(2)
        >>> gradients = jnp.array([[2.0, 1.0], [2.0, -1.0], [3.0, 0.0], [-1000.0, 0.0]])
        >>> tx.update(gradients, tx.init(params), params)[0].round(3) + 0.0
        Array([-1.,  0.], dtype=float32)

    Reference:
        Schaipp et al., "SGD with Clipping is Secretly Estimating the Median Gradient", 2024, arXiv:2402.12828.
    """
    aggregator = geometric_median(
        iterations, smoothing, start=start, per_leaf=per_leaf, nan_policy=nan_policy, axis_name=axis_name
    )
    return descend_along(aggregator, learning_rate, weight_decay, mask)
