"""The geometric median over samples, microbatches or workers, by Weiszfeld's iterations.

Pillutla, Kakade, Harchaoui, "Robust Aggregation for Federated Learning", 2019, arXiv:1912.13445 (RFA). In place of the
mean gradient: Schaipp, Garrigos, Simsekli, Gower, "SGD with Clipping is Secretly Estimating the Median Gradient", 2024,
arXiv:2402.12828 (sample-median gradient descent). RFA smooths distances near zero. Here, by default, an iterate that
meets a row leaves it as in Vardi, Zhang, "The multivariate L1-median and associated data depth", 2000 (PNAS 97): along
the pull of the other rows, shortened by the weight of the row that it meets.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.experimental import aggregating

from optkit.core.checks import check_count, check_option, check_range
from optkit.core.injection import refuse_arrays
from optkit.core.types import AxisName
from optkit.core.workers.aggregation import (
    Layout,
    Total,
    aggregator_of_rows,
    distances,
    mean_of_rows,
    nan_unless,
    norms,
    replace_rows,
)
from optkit.core.workers.collectives import vary_like
from optkit.median_clipping._sample_median import NanPolicy, Start, starting_point
from optkit.method import Method, Paper

__all__ = ["geometric_median"]


def geometric_median(
    iterations: int | None = None,
    smoothing: jax.typing.ArrayLike | None = None,
    *,
    tolerance: jax.typing.ArrayLike = 1e-6,
    start: Start = "median",
    per_leaf: bool = False,
    nan_policy: NanPolicy = "propagate",
    axis_name: AxisName | None = None,
    layout: Layout = "gather",
) -> aggregating.Aggregator:
    """Takes the geometric median of the rows, the point with the least mean distance, by Weiszfeld's iterations.

    The rule of each iteration, where u begins at `start`, g_i are the rows and `|.|` is the norm over all leaves::

        w_i = 1 / |g_i - u|
        u = sum(w_i * g_i) / sum(w_i)

    Of n rows, b < n / 2 may be arbitrary but finite: the result is then not longer than 2 (1 - b/n) / (1 - 2 b/n) times
    the longest other row, however far away they are and at any scale. RFA is
    `geometric_median(3, 0.1, tolerance=0, start="zeros")`.

    Use it when some rows may be wrong or have heavy-tailed noise. Avoid it when noise is skewed and light-tailed,
    because the median is then not the mean and training ends at another point. Each iteration reads all rows a few
    times, and ten iterations are common. Workers gather all rows: each of n workers sends and holds n gradients.

    Args:
        iterations: The largest number of iterations, at least 1. Default: 100.
        smoothing: Smaller distances are replaced by this one, above 0, in the unit of the gradient. If it is larger
            than all distances, the result is the mean. Default: None, for 1e-8 times the median distance; an iterate
            that is so close to a row and is not the median leaves it in one step.
        tolerance: The iterations stop after a step that is not longer than this times the median distance of the rows,
            or that is lost in rounding; at least 0. With the number 0 all iterations run, and only then can the result
            be differentiated in reverse mode. Default: 1e-6.
        start: What the iterations start from: the coordinate-wise `"median"`, the `"mean"`, or `"zeros"`. From the
            mean, a few iterations do not come back from far outliers. Default: `"median"`.
        per_leaf: Whether each leaf has its own median, which neither paper does. With False all leaves are one vector.
            Default: False.
        nan_policy: `"propagate"` makes the whole result NaN if a row is not finite; `"omit"` leaves such rows out.
            Default: `"propagate"`.
        axis_name: Name of the axis over workers. Each worker passes its own gradient. None (the default): gradients
            have a leading axis, one row per sample, microbatch or worker.
        layout: `"gather"` gathers all rows on every worker. `"transpose"` gives each worker a slice of all rows, and
            then gathers the results of the slices. Default: `"gather"`. `"transpose"` does not work with `per_leaf`.

    Returns:
        An aggregator without state. Its `update` takes the extra argument `active`, booleans that say which rows take
        part.

    Raises:
        ValueError: If an argument is out of its range, or `layout` does not fit the other arguments.

    Example:
        >>> import optkit
        >>> aggregator = optkit.geometric_median()
        >>> gradients = jnp.array([[0.0, 1.0], [0.0, -1.0], [1.0, 0.0], [-1000.0, 0.0]])
        >>> aggregator.update(gradients, aggregator.init(None))[0].round(3) + 0.0
        Array([0., 0.], dtype=float32)

    Reference:
        arXiv:1912.13445
        arXiv:2402.12828
    """
    refuse_arrays(iterations=iterations, start=start, per_leaf=per_leaf, nan_policy=nan_policy)
    check_count("iterations", iterations)
    check_range("smoothing", smoothing, 0.0, low_open=True)
    check_range("tolerance", tolerance, 0.0)
    check_option("start", start, Start)
    check_option("nan_policy", nan_policy, NanPolicy)
    if per_leaf and layout == "transpose":
        raise ValueError("per_leaf must be False with layout='transpose', which does not see single leaves, got True")
    most = 100 if iterations is None else iterations

    def rule(rows, *, active, total):
        if not jax.tree.leaves(rows):
            return rows
        kept = jnp.ones(len(jax.tree.leaves(rows)[0]), bool) if active is None else active
        if nan_policy == "omit":
            kept = kept & jnp.isfinite(norms(rows, total))
        some = None if active is None and nan_policy == "propagate" else kept
        rows = rows if some is None else replace_rows(rows, kept, 0.0)
        center = starting_point(start, rows, nan_policy, some)
        median = _iterate(
            lambda center: _weiszfeld(rows, kept, center, smoothing, total), center, most, tolerance, total
        )
        return nan_unless(jnp.any(kept), median)

    def rule_per_leaf(rows, *, active, total):
        return jax.tree.map(lambda x: rule(x, active=active, total=total), rows)

    return aggregator_of_rows("geometric_median", rule_per_leaf if per_leaf else rule, axis_name, layout)


def _iterate(
    iteration: Callable[[Any], tuple[Any, jax.Array]],
    center: Any,
    most: int,
    tolerance: jax.typing.ArrayLike,
    total: Total,
) -> Any:
    """Iterates until a step is short; with the number 0 as tolerance it runs all iterations, differentiably."""
    if not isinstance(tolerance, jax.Array) and tolerance == 0:
        return jax.lax.fori_loop(0, most, lambda _, center: iteration(center)[0], center)

    def goes_on(carry):
        count, _, far = carry
        return (count < most) & far

    def advance(carry):
        count, center, _ = carry
        new, scale = iteration(center)
        change, size = norms(_stack(optax.tree.sub(new, center), new), total)
        rounding = 2 * jnp.finfo(size.dtype).eps * size
        return count + 1, new, change > jnp.maximum(tolerance * scale, rounding)

    # All workers compare the same numbers, so that all stop together.
    first = (jnp.zeros([], jnp.int32), center, jnp.array(True))
    return jax.lax.while_loop(goes_on, advance, vary_like(first, jax.eval_shape(advance, first)))[1]


def _weiszfeld(
    rows: Any, kept: jax.Array, center: Any, smoothing: jax.typing.ArrayLike | None, total: Total
) -> tuple[Any, jax.Array]:
    """Returns the result of one iteration from a point, and the median distance of the rows from that point."""
    apart = distances(rows, center, total)
    ordered = jnp.sort(jnp.where(kept, apart, jnp.inf))
    middle = jnp.maximum(jnp.sum(kept) - 1, 0) // 2  # the lower of two, not further than an honest row
    scale = jax.lax.stop_gradient(ordered[middle])
    if smoothing is not None:
        return mean_of_rows(rows, jnp.where(kept, 1 / jnp.maximum(apart, smoothing), 0)), scale  # Alg. 2, beta_i
    met = jnp.where(kept & (apart <= 1e-8 * scale), 1, jnp.zeros_like(apart))
    pulling = kept & (met == 0)
    weights = jnp.where(pulling, scale / jnp.where(pulling, apart, 1), 0)
    heavy = jnp.sum(weights)
    target = mean_of_rows(rows, jnp.where(heavy > 0, weights, met))
    towards = optax.tree.sub(target, center)
    # The pull of the other rows is a sum of unit vectors; it moves the point by what exceeds the number of rows met.
    pull = heavy * norms(_stack(towards), total)[0] / jnp.where(scale > 0, scale, 1)
    share = jnp.where(jnp.any(met), jnp.maximum(1 - jnp.sum(met) / jnp.where(pull > 0, pull, 1), 0), 1)
    new = optax.tree.where(jnp.any(met), optax.tree.add_scale(center, share, towards), target)
    return new, scale


def _stack(*trees: Any) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


METHODS = (
    Method(
        name="geometric_median",
        factory=geometric_median,
        kind="aggregator",
        summary="Takes the geometric median over samples, microbatches or workers by Weiszfeld's iterations.",
        paper=Paper("Robust Aggregation for Federated Learning", "Pillutla, Kakade, Harchaoui", 2019, "1912.13445"),
        also_known_as=("RFA", "GeoMed", "spatial median", "L1-median", "Weiszfeld", "SMGD"),
        example={"iterations": 8},
        grid=0.1,
        stacked="microbatches",
        golden="rfa",
    ),
)
