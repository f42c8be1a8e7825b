"""Tracking the median of the gradients across iterations.

Schaipp, Garrigos, Simsekli, Gower, "SGD with Clipping is Secretly Estimating the Median Gradient", 2024,
arXiv:2402.12828. No code of the authors is public; the rule was derived from the paper's model: one stochastic proximal
point step for the median with the fresh gradient, then a step of the parameters along the new estimate.
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
        count: number of updates so far, equal on all workers.
        median: estimate of the median gradient, shaped and sharded like the parameters, in `accumulator_dtype`; equal
            on all workers if their gradients are. None without memory.
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
    """Replaces the gradient by an estimate of its median, which each gradient moves by one proximal step.

    It comes first in a chain; weight decay and momentum follow. Over several workers give it the mean gradient (or
    another aggregate): it sends nothing. A gradient that is NaN, or infinite (but for norms that clip coordinates),
    stays in the estimate: wrap it in `optax.apply_if_finite`. The median of skewed noise is not its mean: where noise
    is skewed and light-tailed, take `optax.ema`.

    Args:
        tau: how far one gradient moves the estimate, above 0, or a schedule of it. In units of the gradient: for
            `median_step.l2` start from the gradients' typical norm, for `median_step.l1` from a typical coordinate;
            relative to 1 for `median_step.half_squared_l2`. With `1 / sqrt(t)` the estimate converges where the
            gradients' distribution stands still. The estimate lags by design: the gradients must change by less than
            tau a step.
        step: the norm whose median is tracked, as a map from a difference and tau to a step; default
            `median_step.l2()`, the geometric median. See `median_step.l1`, `median_step.linf`,
            `median_step.half_squared_l2`, `median_step.huber_l2`, `median_step.huber`, `median_step.elastic_net`,
            `median_step.quantile`, `median_step.insensitive_l2`, `median_step.subgradient_l1`,
            `median_step.subgradient_l2`; for any other norm, the projection on the ball of radius tau of its dual norm.
            Called in float32 at least.
        init: what the estimate starts from: `"zeros"` (default) or the `"first"` gradient.
        memory: whether the estimate is kept. Without, every step starts again from zero: `median_step.l2` is then
            clipping by the global norm and `median_step.l1` clipping by value.
        accumulator_dtype: dtype of the estimate, that of the parameters by default.

    Returns:
        A transformation with a `ScaleByMedianTrackingState`: one number a parameter, none without memory.

    Raises:
        ValueError: if `tau` is not positive, if `init` is unknown, or is `"first"` without memory.

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
        Schaipp et al., "SGD with Clipping is Secretly Estimating the Median Gradient", 2024, arXiv:2402.12828.
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
    """Descends along an estimate of the median gradient, tracked across iterations: for heavy-tailed noise.

    Do not take it where noise is skewed and light-tailed: the median is not the mean, and the fixed point is another.

    Args:
        learning_rate: a positive number or a schedule. Times the curvature it must be small against tau over the
            gradient's size, since the estimate moves by at most tau a step.
        tau: how far one gradient moves the estimate, above 0, or a schedule of it; in units of the gradient, see
            `scale_by_median_tracking`.
        step: the norm whose median is tracked; default `median_step.l2()`, see `scale_by_median_tracking`.
        weight_decay: strength of the decoupled decay, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        init: what the estimate starts from: `"zeros"` (default) or the `"first"` gradient.
        accumulator_dtype: dtype of the estimate; default the parameters', but at least float32.

    Returns:
        An optimizer; its state is one number a parameter.

    Raises:
        ValueError: if a hyperparameter is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.median_tracking_sgd(0.1, tau=5.0)
        >>> params = jnp.zeros(2)
        >>> updates, state = tx.update(jnp.array([30.0, 40.0]), tx.init(params), params)
        >>> updates
        Array([-0.3, -0.4], dtype=float32)

    Reference:
        Schaipp et al., "SGD with Clipping is Secretly Estimating the Median Gradient", 2024, arXiv:2402.12828.
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
    """`scale_by_median_tracking`, with errors that name the method that a user called."""
    refuse_arrays(step=step, init=init, memory=memory, accumulator_dtype=accumulator_dtype)
    check_step(step, method)
    check_range("tau", tau, 0.0, low_open=True)
    check_option("init", init, Init)
    if init == "first" and not memory:
        raise ValueError("init must be 'zeros' with memory=False, which starts every step from there, got 'first'")
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
        summary="Tracks the median of the gradients over the steps by proximal steps, and descends along it.",
        paper=MEDIAN,
        also_known_as=(
            "Tracking the Median of Gradients with a Stochastic Proximal Point Method",
            "median momentum",
            "SPP",
        ),
        parts=(scale_by_median_tracking,),
        example={"learning_rate": 2e-3, "tau": 1.0},
        grid=1.0,
        variants={
            "l1": Variant({"step": median_step.l1(), "tau": 1e-2}, grid=1.0),
            "linf": Variant({"step": median_step.linf()}, grid=0.3),
            "huber": Variant({"step": median_step.huber(1.0), "tau": 0.1}, grid=1.0),
        },
        golden="median_tracking",
    ),
)
