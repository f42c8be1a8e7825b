"""Clipping as a median: one proximal step from zero towards the gradient, which is median tracking without memory.

Schaipp, Garrigos, Simsekli, Gower, "SGD with Clipping is Secretly Estimating the Median Gradient", 2024,
arXiv:2402.12828.
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
    """Median-clipped SGD: descends along one proximal step from zero towards the gradient, which is a clipped gradient.

    With the default `step` it is SGD with clipping by the global norm, with `median_step.l1()` SGD with clipping by
    value.

    Args:
        learning_rate: a positive number or a schedule.
        tau: for a norm the threshold of the clipping, above 0, or a schedule of it; default 1.
        step: the norm; default `median_step.l2()`, see `scale_by_median_tracking`.
        momentum: decay of the sum of clipped gradients along which it descends, in [0, 1), as in `optax.sgd`; None
            (default) for the last one alone.
        weight_decay: strength of the decoupled decay, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.

    Returns:
        An optimizer; its state is counters, and with momentum one number a parameter.

    Raises:
        ValueError: if a hyperparameter is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.clipped_sgd(0.1, tau=5.0)
        >>> params = jnp.zeros(2)
        >>> updates, state = tx.update(jnp.array([30.0, 40.0]), tx.init(params), params)
        >>> updates
        Array([-0.3, -0.4], dtype=float32)

    Reference:
        Schaipp et al., "SGD with Clipping is Secretly Estimating the Median Gradient", 2024, arXiv:2402.12828.
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
        summary="SGD along one proximal step from zero towards the gradient, which is a clipped gradient.",
        paper=MEDIAN,
        also_known_as=("gradient clipping", "clip_by_global_norm", "clip_grad_norm_", "clip_grad_value_"),
        example={"learning_rate": 1e-3, "momentum": 0.9},
        grid=0.3,
        variants={"l1": Variant({"step": median_step.l1(), "tau": 1e-2, "learning_rate": 0.02}, grid=0.3)},
    ),
)
