"""NIGT: normalized steps along a momentum whose gradients are taken ahead of the parameters.

Cutkosky, Mehta, "Momentum Improves Normalized SGD", 2020, arXiv:2002.03305 (NIGT); with a schedule of the decay
Fatkhullin, Barakat, Kireeva, He, "Stochastic Policy Gradient Methods: Improved Sample Complexity for
Fisher-non-degenerate Policies", 2023, arXiv:2302.01734 (N-PG-IGT).
"""

from typing import Any

import jax.numpy as jnp
import optax

from optkit.core.checks import check_range
from optkit.core.precision import in_float32
from optkit.core.schedules import value_at
from optkit.method import Method, Paper
from optkit.variance_reduction._implicit_transport import Extrapolation, igt_eval_params, transported
from optkit.variance_reduction._recursion import normalization

__all__ = ["nigt"]


def exponential_extrapolation(b1: Any, *, init_first: bool) -> Extrapolation:
    """Computes how far ahead the gradients of an exponential average are taken.

    Args:
        b1: Decay rate of the average, in [0, 1), or a schedule.
        init_first: Whether the average begins as the first gradient, instead of at zero.

    Returns:
        A function for the argument `extrapolation` of `transported`.
    """

    def extrapolation(count):
        decay: Any = value_at(b1, count)
        ahead = decay / (1 - decay)  # the factor of x_t - x_{t-1}
        return jnp.where(count == 0, 0, ahead) if init_first else ahead

    return extrapolation


def nigt(
    learning_rate: optax.ScalarOrSchedule,
    b1: optax.ScalarOrSchedule = 0.9,
    *,
    normalize: bool = True,
    init_first: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Normalized descent along a momentum whose gradients are taken ahead of the parameters.

    The update rule, where x are the shifted parameters at which g is taken, y the true parameters, and the norm is
    global. In the first step m = g::

        m = b1 * m + (1 - b1) * g
        u = -lr * m / |m|
        y = y + u
        x = y + b1 / (1 - b1) * u

    The training loop holds the shifted parameters x; `igt_eval_params` returns y, the parameters to evaluate.

    Use it when gradients are noisy and their scale is unknown, because the length of a step does not depend on it.
    Avoid it when the gradients of layers differ by orders of magnitude, because all leaves share one norm. In every
    step all leaves together move by the learning rate, so it must decay for the parameters to settle.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. It is the length of a step.
        b1: Decay rate of the momentum, in [0, 1). Default: 0.9. It may be a schedule, as in N-PG-IGT
            (arXiv:2302.01734).
        normalize: Whether the momentum is divided by its norm over all leaves. Default: True.
        init_first: Whether the momentum begins as the first gradient, instead of at zero. Default: True.

    Returns:
        An optimizer. Its state holds two numbers per parameter.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.nigt(1.0)
        >>> shifted = jnp.array([3.0, -4.0])
        >>> updates, state = tx.update(shifted, tx.init(shifted), shifted)
        >>> shifted = optax.apply_updates(shifted, updates)
        >>> optkit.igt_eval_params(state, shifted)
        Array([ 2.4, -3.2], dtype=float32)

    Reference:
        arXiv:2002.03305
        arXiv:2302.01734
    """
    check_range("b1", b1, 0.0, 1.0, high_open=True)
    descent = optax.scale_by_learning_rate(learning_rate)
    inner = optax.chain(normalization(), descent) if normalize else descent  # m_t / ||m_t||
    return in_float32(transported("nigt", inner, exponential_extrapolation(b1, init_first=init_first)))


METHODS = (
    Method(
        name="nigt",
        factory=nigt,
        kind="optimizer",
        summary="Normalized steps along a momentum whose gradients are taken ahead of the parameters.",
        paper=Paper("Momentum Improves Normalized SGD", "Cutkosky, Mehta", 2020, "2002.03305"),
        also_known_as=("N-IGT", "N-PG-IGT", "normalized SGD with implicit gradient transport"),
        example={"learning_rate": 1e-2},
        grid=3e-2,
        eval_params=igt_eval_params,
    ),
)
