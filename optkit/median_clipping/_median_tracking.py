"""Median tracking: an estimate of the median of the gradients, updated at every step.

Schaipp, Garrigos, Simsekli, Gower, "SGD with Clipping is Secretly Estimating the Median Gradient", 2024,
arXiv:2402.12828. The authors have published no code. The rule was derived from the paper's model: one stochastic
proximal point step towards the median with the new gradient, then a step of the parameters along the new estimate.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_option, check_range
from optkit.core.complex_numbers import refuse_complex
from optkit.core.decay import add_decay
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32, widen
from optkit.core.proximal import StepTowardsMedian, check_step
from optkit.core.schedules import value_at
from optkit.core.types import DTypeLike, Mask
from optkit.median_clipping import median_step
from optkit.median_clipping._papers import MEDIAN
from optkit.method import Method, Variant

__all__ = ["median_tracking_sgd", "scale_by_median_tracking"]

Init = Literal["zeros", "first"]


class ScaleByMedianTrackingState(NamedTuple):
    """State of `scale_by_median_tracking`.

    Attributes:
        count: Number of updates so far; equal on all workers.
        median: Estimate of the median gradient, shaped and sharded like the parameters, in `accumulator_dtype`. It is
            equal on all workers if their gradients are. None with `memory=False`.
    """

    count: jax.typing.ArrayLike
    median: Any


def scale_by_median_tracking(
    tau: optax.ScalarOrSchedule,
    step: StepTowardsMedian | None = None,
    *,
    init: Init = "zeros",
    memory: bool = True,
    accumulator_dtype: DTypeLike | None = None,
) -> optax.GradientTransformation:
    """Replaces the gradient by an estimate of the median gradient, which each gradient moves by one proximal step.

    The update rule, where m starts at zero, `|.|` is the norm over all leaves, and `step` is the default::

        d = g - m
        m = m + d * min(1, tau / |d|)
        u = m

    Use it first in a chain, before weight decay and momentum, when gradient noise is heavy-tailed. It keeps one number
    per parameter. Avoid it when noise is skewed and light-tailed, because the median is then not the mean and training
    ends at another point. `optax.ema` is then the better choice.

    It sends nothing between workers: pass it the mean gradient or another aggregate. A gradient with NaN stays in the
    estimate for ever, and so does an infinite one unless `step` clips coordinates: wrap it in `optax.apply_if_finite`.

    Args:
        tau: How far one gradient moves the estimate, above 0, or a schedule. It is in the unit of the gradient: start
            from the typical norm of the gradients for `median_step.l2`, and from a typical coordinate for
            `median_step.l1`; for `median_step.half_squared_l2` it has no unit, so start from 1. With `1 / sqrt(t)` the
            estimate converges if the distribution of the gradients does not change. The estimate always lags: the
            gradients must change by less than tau per step.
        step: The norm whose median is tracked, as a map from a difference and tau to a step. See `median_step.l1`,
            `median_step.linf`, `median_step.half_squared_l2`, `median_step.huber_l2`, `median_step.huber`,
            `median_step.elastic_net`, `median_step.quantile`, `median_step.insensitive_l2`,
            `median_step.subgradient_l1` and `median_step.subgradient_l2`. For any other norm pass the projection onto
            the ball of radius tau of its dual norm. It is called in at least float32. Default: `median_step.l2()`, the
            geometric median.
        init: What the estimate starts from: `"zeros"`, or the `"first"` gradient. Default: `"zeros"`.
        memory: Whether the estimate is kept. With False every step starts again from zero: `median_step.l2` is then
            clipping by the global norm, and `median_step.l1` clipping by value. Default: True.
        accumulator_dtype: Dtype of the estimate. Default: that of the parameters.

    Returns:
        A transformation with a `ScaleByMedianTrackingState`: one number per parameter, or none with `memory=False`.

    Raises:
        ValueError: If `tau` is not positive, if `init` is unknown, or if it is `"first"` with `memory=False`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.scale_by_median_tracking(tau=1.0, step=optkit.median_step.l1())
        >>> params = jnp.zeros(3)
        >>> state = tx.init(params)
        >>> for gradient in ([2.0, 0.5, -100.0], [2.0, 0.5, 3.0]):
        ...     updates, state = tx.update(jnp.array(gradient), state, params)
        >>> updates
        Array([2. , 0.5, 0. ], dtype=float32)

    Reference:
        arXiv:2402.12828
    """
    return track("scale_by_median_tracking", tau, step, init=init, memory=memory, accumulator_dtype=accumulator_dtype)


def median_tracking_sgd(
    learning_rate: optax.ScalarOrSchedule,
    tau: optax.ScalarOrSchedule,
    step: StepTowardsMedian | None = None,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    init: Init = "zeros",
    accumulator_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """SGD along an estimate of the median gradient, which each gradient moves by one proximal step.

    The update rule, where m starts at zero, `|.|` is the norm over all leaves, and `step` is the default::

        d = g - m
        m = m + d * min(1, tau / |d|)
        x = x - lr * (m + wd * x)

    Use it when gradient noise is heavy-tailed. It keeps one number per parameter. Avoid it when noise is skewed and
    light-tailed, because the median is then not the mean and training ends at another point.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. Its product with the curvature must be small
            against tau over the size of the gradient, because the estimate moves by at most tau per step.
        tau: See `scale_by_median_tracking`.
        step: See `scale_by_median_tracking`. Default: `median_step.l2()`.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        init: See `scale_by_median_tracking`. Default: `"zeros"`.
        accumulator_dtype: Dtype of the estimate. Default: that of the parameters, but at least float32.

    Returns:
        An optimizer. Its state is one number per parameter.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.median_tracking_sgd(0.1, tau=5.0)
        >>> params = jnp.zeros(2)
        >>> updates, state = tx.update(jnp.array([30.0, 40.0]), tx.init(params), params)
        >>> updates
        Array([-0.3, -0.4], dtype=float32)

    Reference:
        arXiv:2402.12828
    """
    refuse_arrays(mask=mask)
    return in_float32(
        optax.chain(
            track("median_tracking_sgd", tau, step, init=init, accumulator_dtype=accumulator_dtype),
            add_decay("median_tracking_sgd", weight_decay, mask),
            optax.scale_by_learning_rate(learning_rate),  # x_{t+1} = x_t - lr m_{t+1}
        )
    )


def track(
    method: str,
    tau: optax.ScalarOrSchedule,
    step: StepTowardsMedian | None,
    *,
    init: Init = "zeros",
    memory: bool = True,
    accumulator_dtype: DTypeLike | None = None,
) -> optax.GradientTransformation:
    """Builds `scale_by_median_tracking`, with errors that name the method that the user called."""
    refuse_arrays(step=step, init=init, memory=memory, accumulator_dtype=accumulator_dtype)
    check_step(step, method)
    check_range("tau", tau, 0.0, low_open=True)
    check_option("init", init, Init)
    if init == "first" and not memory:
        raise ValueError("init must be 'zeros' with memory=False, which starts every step from zero, got 'first'")
    step = median_step.l2() if step is None else step

    def init_fn(params):
        refuse_complex(params, method)
        median = optax.tree.zeros_like(params, dtype=accumulator_dtype) if memory else None
        return ScaleByMedianTrackingState(count=jnp.zeros([], jnp.int32), median=median)

    def update_fn(updates, state, params=None):
        del params
        radius = value_at(tau, state.count)
        gradient = widen(updates)
        start = widen(state.median) if memory else optax.tree.zeros_like(gradient)
        if init == "first":
            start = optax.tree.where(state.count == 0, gradient, start)
        difference = optax.tree.sub(gradient, start)
        median = optax.tree.add(start, step(difference, radius))  # m_{t+1} = m_t + P_tau(g_t - m_t)
        kept = optax.tree.cast_like(median, state.median) if memory else None
        new_state = ScaleByMedianTrackingState(count=optax.safe_increment(state.count), median=kept)
        return optax.tree.cast_like(median, updates), new_state

    return optax.GradientTransformation(init_fn, update_fn)


METHODS = (
    Method(
        name="median_tracking_sgd",
        factory=median_tracking_sgd,
        kind="optimizer",
        summary="SGD along an estimate of the median gradient, which each gradient moves by one proximal step.",
        paper=MEDIAN,
        also_known_as=(
            "Tracking the Median of Gradients with a Stochastic Proximal Point Method",
            "median momentum",
            "SPP",
        ),
        parts=(scale_by_median_tracking,),
        example={"learning_rate": 2e-3, "tau": 1.0},
        grid=1.0,
        tunable={"tau": (0.1, 10.0, "log")},
        variants={
            "l1": Variant({"step": median_step.l1(), "tau": 1e-2}, grid=1.0),
            "linf": Variant({"step": median_step.linf()}, grid=0.3),
            "huber": Variant({"step": median_step.huber(1.0), "tau": 0.1}, grid=1.0),
        },
        golden="median_tracking",
    ),
)
