"""DES-LOC: local steps of Adam or ADOPT that average parameters, momentum and second moment at periods of their own.

Iacob et al., "DES-LOC: Desynced Low Communication Adaptive Optimizers for Training Foundation Models", 2025,
arXiv:2505.22549. It is MT-DAO, of the same authors, with one momentum that has the whole weight of the step.
"""

from typing import Literal

import jax
import optax

from optkit.core.checks import check_option, check_period
from optkit.core.types import AxisName, Mask
from optkit.local_training._mt_dao import StateSync, named_mt_dao
from optkit.local_training._slow_momenta import slow_momenta
from optkit.method import Method, Paper

__all__ = ["des_loc"]

DesLocBase = Literal["adam", "adopt"]


def des_loc(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    axis_name: AxisName | None,
    every: int | jax.Array = 32,
    momentum_every: int | jax.Array | None = None,
    second_moment_every: int | jax.Array | None = None,
    state_sync: StateSync = "before_use",
    base: DesLocBase = "adam",
) -> optax.GradientTransformationExtraArgs:
    """Local steps of Adam or ADOPT that average the moments over the workers less often than the parameters.

    The update rule of worker i with the base "adam", where t counts updates from 1, and g_i is the worker's own
    gradient::

        u_i = b1 * u_i + (1 - b1) * g_i
        v_i = b2 * v_i + (1 - b2) * g_i^2
        u_i = mean over workers of u_i                  # every `momentum_every` steps
        v_i = mean over workers of v_i                  # every `second_moment_every` steps
        x_i = (1 - weight_decay * lr_t / lr_0) * x_i - lr_t * (u_i / (1 - b1^t)) / (sqrt(v_i / (1 - b2^t)) + eps)
        x_i = mean over workers of x_i                  # every `every` steps

    Moments change more slowly than parameters, so that averages of them may lie further apart: by default a step sends
    half of what local Adam would send that averages all three every `every` steps. Give each worker its own gradients,
    not averaged. In a chain it must be the last transformation, because it overwrites the parameters.

    Use it for training with Adam where averaging gradients in every step takes too long, and local Adam whose moments
    are never averaged is not stable. Avoid it with many local steps, because a momentum of 0.9 has then forgotten what
    the workers agreed on; `mt_dao` has a slow one. Avoid it, too, with very uneven data: an averaged momentum, divided
    by the second moment of a worker that has not seen such gradients, is a huge step. One period for both moments
    avoids that.

    What a step sends: nothing, or the mean of the moments that are due in it, in one collective, and that of the
    parameters, if they are due, in another; with `state_sync="after_step"` all in one. On average it sends `1 / every +
    1 / momentum_every + 1 / second_moment_every` times the parameters.

    Args:
        learning_rate: The learning rate, a positive number or a schedule.
        b1: Decay rate of the momentum, in [0, 1). Default: 0.9. The authors take 0.95 with "adopt".
        b2: Decay rate of the second moment, in [0, 1). Default: 0.999. The authors take 0.9999 with "adopt".
        eps: Added to the square root of the second moment, or with "adopt" its least value, at least 0. Default: 1e-8.
            The authors take 1e-6 with "adopt".
        weight_decay: Strength of the decoupled weight decay, at least 0. It is multiplied by the learning rate in units
            of its first value, as in `mt_dao`. Default: 0.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        axis_name: Name of the axis over workers. None means that there is only one worker.
        every: Number of steps from one average of the parameters to the next, an integer, at least 1. Default: 32.
        momentum_every: The same for the momentum. Default: None, three times `every`, as in the paper.
        second_moment_every: The same for the second moment. Default: None, six times `every`, as in the paper.
        state_sync: When momentum and second moment are averaged. With "before_use" they are averaged after they took in
            the gradient and before the step uses them. With "after_step", a step uses the worker's own, which is the
            same as to average them in the next step before its gradient; the authors' code does that. Default:
            "before_use".
        base: Whose normalization is used: "adam" or "adopt". Default: "adam".

    Returns:
        An optimizer. Its state holds two numbers per parameter.

    Raises:
        ValueError: If a hyperparameter is out of its range, a word is unknown, or `axis_name` is not one name.
        TypeError: If `mask` is an array; from `init`, if parameters are complex and the base is "adopt".

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.des_loc(0.5, axis_name="workers", every=1)
        >>> def first_step(gradient):
        ...     params = jnp.zeros([])
        ...     updates, state = tx.update(gradient, tx.init(params), params)
        ...     return updates.round(3), state.momenta[0]
        >>> step = optkit.on_workers(first_step, axis_name="workers", backend="vmap")
        >>> step(jnp.array([2.0, 4.0]))
        (Array([-0.5, -0.5], dtype=float32), Array([0.2, 0.4], dtype=float32))

    Reference:
        arXiv:2505.22549
    """
    check_option("base", base, DesLocBase)
    check_period("every", every)
    momentum_every = 3 * every if momentum_every is None else momentum_every
    check_period("momentum_every", momentum_every)
    return named_mt_dao(
        "des_loc",
        learning_rate,
        slow_momenta(b1, 1.0, b2, eps, base, None),
        weight_decay,
        mask,
        axis_name=axis_name,
        every=every,
        momenta_every=momentum_every,
        second_moment_every=6 * every if second_moment_every is None else second_moment_every,
        state_sync=state_sync,
    )


METHODS = (
    Method(
        name="des_loc",
        factory=des_loc,
        kind="optimizer",
        summary="Local steps of Adam or ADOPT that average the moments less often than the parameters.",
        paper=Paper(
            "DES-LOC: Desynced Low Communication Adaptive Optimizers for Training Foundation Models",
            "Iacob et al.",
            2025,
            "2505.22549",
        ),
        also_known_as=("DES-LOC", "DES-LOC-Adam", "DES-LOC-ADOPT", "desynced low communication", "local Adam"),
        example={"learning_rate": 1e-3, "axis_name": "workers"},
        grid=1e-3,
        needs=("axis_name",),
        golden="mt_dao",
    ),
)
