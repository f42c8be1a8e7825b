"""The median, of any norm, over samples, microbatches or workers, by stochastic proximal point steps.

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

    Args:
        median: the estimate, a tree.
        samples: the same tree, with a leading axis over samples.
        tau: how far all of them together move it; each of `n` takes `tau / n`.
        step: the norm whose median it is; default `median_step.l2()`.

    Returns:
        The next estimate.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> samples = jnp.array([[2.0], [3.0], [-50.0], [2.5]])
        >>> optkit.proximal_pass(jnp.zeros(1), samples, tau=4.0)
        Array([2.], dtype=float32)

    Reference:
        Schaipp et al., "SGD with Clipping is Secretly Estimating the Median Gradient", 2024, arXiv:2402.12828.
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
    """Nears the median of the rows, of any norm, by passes of stochastic proximal point steps through them.

    With a constant `tau` it ends about `tau` away from the median; with one that falls to zero it converges, more
    slowly than `geometric_median`: take it for the other norms. Workers gather all rows.

    Args:
        tau: how far a pass may move the estimate, above 0, in units of the gradient, or a function of the pass's
            number, from 0. With `tau / (1 + k)` start from several times the rows' distances: below that it converges,
            but ever more slowly.
        step: the norm whose median is wanted; default `median_step.l2()`, the geometric median. See
            `scale_by_median_tracking`.
        passes: how often it goes through the rows, at least 1. None: 8.
        start: what it starts from: `"zeros"`, the `"mean"`, or the coordinate-wise `"median"` (default), the only one
            that no outlier moves further than the passes can go back.
        axis_name: the axis over workers, each of which passes its own gradient; None (default) for gradients stacked
            along the leading axis of each leaf.

    Returns:
        An aggregator without state.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> aggregator = optkit.proximal_median(lambda k: 10 / (k + 1), optkit.median_step.quantile(0.7), passes=100)
        >>> gradients = jnp.array([[1.0, 2.0], [3.0, 1.0], [100.0, 3.0], [4.0, 6.0], [2.0, 9.0]])
        >>> aggregator.update(gradients, aggregator.init(None))[0].round(1)
        Array([4., 6.], dtype=float32)

    Reference:
        Schaipp et al., "SGD with Clipping is Secretly Estimating the Median Gradient", 2024, arXiv:2402.12828.
    """
    refuse_arrays(step=step, passes=passes, start=start)
    check_step(step, "proximal_median")
    check_range("tau", tau, 0.0, low_open=True)
    check_count("passes", passes)
    check_option("start", start, Start)

    def rule(rows, *, active, total):
        del total
        if active is not None:
            raise TypeError("proximal_median goes through all rows and cannot leave any out: call it without active")
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
        summary="The median, of any norm, over samples, microbatches or workers by stochastic proximal point steps.",
        paper=MEDIAN,
        also_known_as=("SPP", "stochastic proximal point"),
        parts=(proximal_pass,),
        example={"tau": 1.0},
        grid=0.1,
        stacked="microbatches",
    ),
)
