"""Local SGD, and post-local SGD, which begins with an average in every step.

Stich, "Local SGD Converges Fast and Communicates Little", 2018, arXiv:1805.09767. Lin, Stich, Patel, Jaggi, "Don't Use
Large Mini-Batches, Use Local SGD", 2018, arXiv:1808.07217.
"""

from collections.abc import Collection

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_integer, check_period
from optkit.core.precision import in_float32
from optkit.core.types import AxisName
from optkit.local_training._local_updates import local_updates
from optkit.local_training._periods import Every
from optkit.method import Method, Paper, Variant

__all__ = ["local_sgd", "post_local_sgd"]


def local_sgd(
    learning_rate: optax.ScalarOrSchedule,
    every: Every = 8,
    momentum: float | jax.Array | None = None,
    *,
    axis_name: AxisName | None,
    nesterov: bool = False,
    average_state: Collection[str] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Local SGD: each worker takes steps of SGD, and every few steps the workers' parameters are averaged.

    The update rule, where i is a worker::

        x_i = x_i - lr * g_i
        x_i = mean over j of x_j              # every H steps

    Use it when an average of gradients in every step takes too long. Avoid it with uneven data and many local steps,
    because workers then drift apart: `optkit.local_updates` with an outer momentum, or a smaller H, helps.

    Args:
        learning_rate: The learning rate, a positive number or a schedule.
        every: Number of steps H from one synchronization to the next, an integer, at least 1; or a function that
            returns it from the number of steps done, for example `quadratic_synchronization`. Default: 8.
        momentum: Decay rate of the momentum, in [0, 1). Each worker has its own. Default: None, no momentum.
        axis_name: Name of the axis over workers. None means that there is only one worker.
        nesterov: Whether the gradient is added once more, as by Nesterov. Default: False.
        average_state: See `local_updates`; `("trace",)` averages the momentum, too. Default: None.

    Returns:
        An optimizer. Its state is that of `optax.sgd` and three counters. A synchronization sends the parameters once,
        in float32 at least. `update` takes the extra argument `weight`, see `local_updates`.

    Raises:
        ValueError: If `every` is not a positive integer, or `average_state` names a field that is not there.

    Example:
        >>> import optkit
        >>> tx = optkit.local_sgd(0.5, every=1, axis_name="workers")
        >>> def step(params, targets):
        ...     return tx.update(params - targets, tx.init(params), params)[0]
        >>> step = optkit.on_workers(step, axis_name="workers", backend="vmap")
        >>> step(jnp.zeros(2), jnp.array([0.0, 8.0])).tolist()
        [2.0, 2.0]

    Reference:
        arXiv:1805.09767
    """
    inner = optax.sgd(learning_rate, momentum, nesterov)
    return in_float32(local_updates(inner, every=every, axis_name=axis_name, average_state=average_state))


def post_local_sgd(
    learning_rate: optax.ScalarOrSchedule,
    switch_step: int | jax.Array,
    every: int | jax.Array = 8,
    momentum: float | jax.Array | None = None,
    *,
    axis_name: AxisName | None,
    nesterov: bool = False,
    average_state: Collection[str] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Post-local SGD: SGD with an average in every step at first, and local SGD from some step on.

    The update rule, where i is a worker and t the number of steps done::

        x_i = x_i - lr * g_i
        x_i = mean over j of x_j              # every H steps; H = 1 if t < switch_step

    As long as H is 1, the parameters are the same as if gradients were averaged.

    Use it in place of `local_sgd` when the first part of training, with its high learning rate, does not stand long
    rounds; the paper switches where the learning rate decays for the first time. Avoid it when the network is so slow
    that the first part would take most of the time.

    Args:
        learning_rate: The learning rate, a positive number or a schedule.
        switch_step: Number of steps with an average in each, an integer, at least 0.
        every: Number of steps H from one synchronization to the next afterwards, an integer, at least 1. Default: 8.
        momentum: See `local_sgd`. Default: None.
        axis_name: Name of the axis over workers. None means that there is only one worker.
        nesterov: See `local_sgd`. Default: False.
        average_state: See `local_updates`; with `("trace",)` all workers have the same momentum at the switch, as if
            gradients had been averaged. Default: None.

    Returns:
        An optimizer with the state of `local_sgd`.

    Raises:
        ValueError: If `switch_step` or `every` is out of its range.

    Example:
        >>> import optkit
        >>> tx = optkit.post_local_sgd(0.5, switch_step=1, every=4, axis_name="workers")
        >>> def step(params, targets):
        ...     return tx.update(params - targets, tx.init(params), params)[0]
        >>> step = optkit.on_workers(step, axis_name="workers", backend="vmap")
        >>> step(jnp.zeros(2), jnp.array([0.0, 8.0])).tolist()
        [2.0, 2.0]

    Reference:
        arXiv:1808.07217
    """
    if not isinstance(switch_step, jax.Array):
        check_integer("switch_step", switch_step, least=0)
    check_period("every", every)

    def period(count):
        return jnp.where(count < switch_step, 1, every)

    return local_sgd(
        learning_rate, period, momentum, axis_name=axis_name, nesterov=nesterov, average_state=average_state
    )


METHODS = (
    Method(
        name="local_sgd",
        factory=local_sgd,
        kind="optimizer",
        summary="SGD on each worker; every few steps the workers' parameters are averaged.",
        paper=Paper("Local SGD Converges Fast and Communicates Little", "Stich", 2018, "1805.09767"),
        also_known_as=("parallel SGD with periodic averaging", "PR-SGD", "local stochastic gradient descent"),
        example={"learning_rate": 2e-3, "every": 4, "axis_name": "workers"},
        grid=3e-1,
        needs=("axis_name",),
        golden="qsr",
        variants={
            "momentum": Variant({"momentum": 0.9, "average_state": ("trace",), "learning_rate": 2e-3}, grid=3e-2)
        },
    ),
    Method(
        name="post_local_sgd",
        factory=post_local_sgd,
        kind="optimizer",
        summary="Averages the workers' parameters in every step at first, and every few steps later.",
        paper=Paper("Don't Use Large Mini-Batches, Use Local SGD", "Lin et al.", 2018, "1808.07217"),
        also_known_as=("PostLocalSGD", "PostLocalSGDOptimizer"),
        example={"learning_rate": 2e-3, "switch_step": 20, "every": 4, "axis_name": "workers"},
        grid=3e-1,
        needs=("axis_name",),
        golden="qsr",
    ),
)
