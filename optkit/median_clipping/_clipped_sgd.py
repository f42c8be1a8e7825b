"""Gradient clipping as a median estimate: one proximal step from zero towards the gradient.

Schaipp, Garrigos, Simsekli, Gower, "SGD with Clipping is Secretly Estimating the Median Gradient", 2024,
arXiv:2402.12828. It is median tracking without memory.
"""

import jax
import optax

from optkit.core.checks import check_range
from optkit.core.decay import add_decay
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32
from optkit.core.proximal import StepTowardsMedian
from optkit.core.types import Mask
from optkit.median_clipping import median_step
from optkit.median_clipping._median_tracking import track
from optkit.median_clipping._papers import MEDIAN
from optkit.method import Method, Variant

__all__ = ["clipped_sgd"]


def clipped_sgd(
    learning_rate: optax.ScalarOrSchedule,
    tau: optax.ScalarOrSchedule = 1.0,
    step: StepTowardsMedian | None = None,
    momentum: float | jax.Array | None = None,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    """SGD with gradient clipping, where the norm of a median decides how the gradient is clipped.

    The update rule, where `|.|` is the norm over all leaves, and `step` and `momentum` are the defaults::

        u = g * min(1, tau / |g|)
        x = x - lr * (u + wd * x)

    The default `step` clips by the global norm, and `median_step.l1()` clips by value. In general u is one proximal
    step from zero towards the gradient.

    Use it when rare large gradients would throw the parameters far away. Without momentum it needs no memory. Avoid it
    when most gradients are longer than tau, because their mean is then biased; `median_tracking_sgd` averages over the
    steps, for one number per parameter.

    Args:
        learning_rate: The learning rate, a positive number or a schedule.
        tau: For a norm, the threshold of the clipping, above 0, or a schedule. Default: 1.
        step: The norm, see `scale_by_median_tracking`. Default: `median_step.l2()`.
        momentum: Decay rate of the momentum, in [0, 1). The momentum is a sum of clipped gradients, as in `optax.sgd`.
            Default: None, without momentum.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.

    Returns:
        An optimizer. Its state is counters and, with momentum, one number per parameter.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.clipped_sgd(0.1, tau=5.0)
        >>> params = jnp.zeros(2)
        >>> updates, state = tx.update(jnp.array([30.0, 40.0]), tx.init(params), params)
        >>> updates
        Array([-0.3, -0.4], dtype=float32)

    Reference:
        arXiv:2402.12828
    """
    check_range("momentum", momentum, 0.0, 1.0, high_open=True)
    refuse_arrays(mask=mask)
    return in_float32(
        optax.chain(
            track("clipped_sgd", tau, step, memory=False),
            optax.identity() if momentum is None else optax.trace(momentum),
            add_decay("clipped_sgd", weight_decay, mask),
            optax.scale_by_learning_rate(learning_rate),
        )
    )


METHODS = (
    Method(
        name="clipped_sgd",
        factory=clipped_sgd,
        kind="optimizer",
        summary="SGD with gradient clipping, where the norm of a median decides how the gradient is clipped.",
        paper=MEDIAN,
        also_known_as=("gradient clipping", "clip_by_global_norm", "clip_grad_norm_", "clip_grad_value_"),
        example={"learning_rate": 1e-3, "momentum": 0.9},
        grid=0.3,
        tunable={"tau": (0.1, 10.0, "log")},
        variants={"l1": Variant({"step": median_step.l1(), "tau": 1e-2, "learning_rate": 0.02}, grid=0.3)},
    ),
)
