"""The median in any norm over samples, microbatches or workers, by stochastic proximal point steps.

Schaipp, Garrigos, Simsekli, Gower, "SGD with Clipping is Secretly Estimating the Median Gradient", 2024,
arXiv:2402.12828 (sample-median gradient descent).
"""

from collections.abc import Callable
from typing import Any

import jax
import optax
from optax.experimental import aggregating

from optkit.core.checks import check_count, check_option, check_range
from optkit.core.injection import refuse_arrays
from optkit.core.proximal import StepTowardsMedian, check_step
from optkit.core.schedules import value_at
from optkit.core.types import AxisName
from optkit.core.workers.aggregation import aggregator_of_rows
from optkit.median_clipping import median_step
from optkit.median_clipping._papers import MEDIAN
from optkit.median_clipping._sample_median import Start, starting_point
from optkit.method import Method

__all__ = ["proximal_median", "proximal_pass"]


def proximal_pass(median: Any, samples: Any, tau: jax.typing.ArrayLike, step: StepTowardsMedian | None = None) -> Any:
    """Moves an estimate of a median by one proximal step for each sample, in their order.

    The rule, where m is the estimate and n the number of samples; for each sample g_i in turn::

        m = m + step(g_i - m, tau / n)

    Use it to write an aggregation rule of your own; `proximal_median` repeats it.

    Args:
        median: The estimate, a tree.
        samples: The same tree with a leading axis over samples.
        tau: How far all samples together may move the estimate.
        step: The norm whose median is estimated, see `scale_by_median_tracking`. Default: `median_step.l2()`.

    Returns:
        The next estimate.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> samples = jnp.array([[2.0], [3.0], [-50.0], [2.5]])
        >>> optkit.proximal_pass(jnp.zeros(1), samples, tau=4.0)
        Array([2.], dtype=float32)

    Reference:
        arXiv:2402.12828
    """
    check_step(step, "proximal_pass")
    step = median_step.l2() if step is None else step
    leaves = jax.tree.leaves(samples)
    if not leaves:
        return median
    share = tau / leaves[0].shape[0]

    def move(median, sample):
        moved = optax.tree.add(median, step(optax.tree.sub(sample, median), share))  # m + P_{tau/b}(g_i - m)
        return optax.tree.cast_like(moved, median), None

    return jax.lax.scan(move, median, samples)[0]


def proximal_median(
    tau: float | Callable[[jax.Array], jax.typing.ArrayLike],
    step: StepTowardsMedian | None = None,
    passes: int | None = None,
    *,
    start: Start = "median",
    axis_name: AxisName | None = None,
) -> aggregating.Aggregator:
    """Estimates the median of the rows in any norm, by passes of stochastic proximal point steps over the rows.

    The rule, where u begins at `start` and n is the number of rows; for each pass k and each row g_i in turn::

        u = u + step(g_i - u, tau(k) / n)

    With a constant `tau` the result is about `tau` away from the median. With a `tau` that falls to zero it converges,
    but more slowly than `geometric_median`.

    Use it for norms other than the l2 norm, when some rows may be wrong or have heavy-tailed noise. Avoid it for the l2
    norm, because `geometric_median` is faster. Workers gather all rows: each of n workers sends and holds n gradients.

    Args:
        tau: How far a pass may move the estimate, above 0, in the unit of the gradient; or a function of the number of
            the pass, which counts from 0. With `tau / (1 + k)` start from several times the distances of the rows:
            below that it still converges, but ever more slowly.
        step: The norm whose median is estimated, see `scale_by_median_tracking`. Default: `median_step.l2()`, the
            geometric median.
        passes: The number of passes over the rows, at least 1. Default: 8.
        start: What the passes start from: `"zeros"`, the `"mean"`, or the coordinate-wise `"median"`. Only with
            `"median"` can no outlier put the start further away than the passes can come back. Default: `"median"`.
        axis_name: Name of the axis over workers. Each worker passes its own gradient. None (the default): gradients
            have a leading axis, one row per sample, microbatch or worker.

    Returns:
        An aggregator without state.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> aggregator = optkit.proximal_median(lambda k: 10 / (k + 1), optkit.median_step.quantile(0.7), passes=100)
        >>> gradients = jnp.array([[1.0, 2.0], [3.0, 1.0], [100.0, 3.0], [4.0, 6.0], [2.0, 9.0]])
        >>> aggregator.update(gradients, aggregator.init(None))[0].round(1)
        Array([4., 6.], dtype=float32)

    Reference:
        arXiv:2402.12828
    """
    refuse_arrays(step=step, passes=passes, start=start)
    check_step(step, "proximal_median")
    check_range("tau", tau, 0.0, low_open=True)
    check_count("passes", passes)
    check_option("start", start, Start)

    def rule(rows, *, active, total):
        del total
        if active is not None:
            raise TypeError("proximal_median cannot leave rows out: call it without active")
        if not jax.tree.leaves(rows):
            return rows

        def one_pass(k, median):
            return proximal_pass(median, rows, value_at(tau, k), step)

        return jax.lax.fori_loop(0, 8 if passes is None else passes, one_pass, starting_point(start, rows, "propagate"))

    return aggregator_of_rows("proximal_median", rule, axis_name)


METHODS = (
    Method(
        name="proximal_median",
        factory=proximal_median,
        kind="aggregator",
        summary="Estimates a median in any norm over samples, microbatches or workers by proximal point steps.",
        paper=MEDIAN,
        also_known_as=("SPP", "stochastic proximal point"),
        parts=(proximal_pass,),
        example={"tau": 1.0},
        grid=0.1,
        stacked="microbatches",
    ),
)
