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
        b1: decay of the average, in [0, 1), or a schedule.
        init_first: whether the average begins as the first gradient, instead of at zero.

    Returns:
        What `transported` takes.
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
    """Normalized descent along a transported momentum.

    The training loop holds shifted parameters; `igt_eval_params` gives those to evaluate. All leaves together move by
    the learning rate in every step, so it must decay for the parameters to settle. Do not take it where layers'
    gradients differ by orders of magnitude: they share one norm.

    Args:
        learning_rate: a positive number or a schedule; the length of a step.
        b1: decay of the momentum, in [0, 1), or a schedule; default 0.9.
        normalize: whether the momentum is divided by its norm over all leaves; on by default.
        init_first: whether the momentum begins as the first gradient; on by default, otherwise at zero.

    Returns:
        An optimizer; its state is two numbers a parameter.

    Raises:
        ValueError: if a hyperparameter is out of its range.

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
        Cutkosky, Mehta, "Momentum Improves Normalized SGD", 2020, arXiv:2002.03305.
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
