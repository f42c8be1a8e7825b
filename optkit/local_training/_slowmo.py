"""SlowMo: SGD on each worker, and a slow momentum over the steps that they agree on.

Wang, Tantia, Ballas, Rabbat, "SlowMo: Improving Communication-Efficient Distributed SGD with Slow Momentum", 2019,
arXiv:1910.00643. Algorithm 1. The learning rate of a round is that of its last step, as in PyTorch's implementation.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_period, check_range
from optkit.core.precision import in_float32
from optkit.core.schedules import value_at
from optkit.core.types import AxisName
from optkit.local_training._local_updates import local_updates, local_updates_eval_params
from optkit.method import Method, Paper

__all__ = ["slowmo"]


class SlowMomentumState(NamedTuple):
    """State of the slow momentum.

    Attributes:
        count: Number of synchronizations so far.
        momentum: Average of the workers' progress, divided by the learning rate.
    """

    count: jax.typing.ArrayLike
    momentum: Any


def slowmo(
    learning_rate: optax.ScalarOrSchedule,
    every: int | jax.Array = 48,
    slow_learning_rate: float | jax.Array = 1.0,
    slow_momentum: float | jax.Array = 0.5,
    momentum: float | jax.Array | None = None,
    *,
    axis_name: AxisName | None,
    nesterov: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """SlowMo: local SGD whose synchronizations take a step along a slow momentum.

    The update rule, where i is a worker, y_i its parameters, x the anchor that all share, and lr the learning rate of
    the last step::

        y_i = y_i - lr * g_i
        u = slow_momentum * u + (x - mean over i of y_i) / lr         # every H steps
        x = x - slow_learning_rate * lr * u
        y_i = x

    Use it in place of `local_sgd`, whose accuracy it improves for the price of an anchor and a momentum. Avoid it with
    a learning rate of zero at the end of a round, whose progress it loses.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. It is that of the workers.
        every: Number of steps H from one synchronization to the next, an integer, at least 1. Default: 48.
        slow_learning_rate: Factor on the slow step, positive. Default: 1.
        slow_momentum: Decay rate of the slow momentum, in [0, 1). Default: 0.5.
        momentum: Decay rate of each worker's own momentum, in [0, 1). Default: None, no momentum.
        axis_name: Name of the axis over workers. None means that there is only one worker.
        nesterov: Whether the worker's momentum is Nesterov's. Default: False.

    Returns:
        An optimizer. Its state is that of `optax.sgd`, the anchor, the slow momentum and counters. A synchronization
        sends the parameters once, in float32 at least. `update` takes the extra argument `weight`, see `local_updates`.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:
        >>> import optkit
        >>> tx = optkit.slowmo(0.5, every=1, axis_name="workers")
        >>> def step(params, targets):
        ...     return tx.update(params - targets, tx.init(params), params)[0]
        >>> step = optkit.on_workers(step, axis_name="workers", backend="vmap")
        >>> step(jnp.zeros(2), jnp.array([0.0, 8.0])).tolist()
        [2.0, 2.0]

    Reference:
        arXiv:1910.00643
    """
    check_period("every", every)
    check_range("slow_learning_rate", slow_learning_rate, 0.0, low_open=True)
    check_range("slow_momentum", slow_momentum, 0.0, 1.0, high_open=True)

    def init_fn(params):
        return SlowMomentumState(jnp.zeros([], jnp.int32), optax.tree.zeros_like(params))

    def update_fn(updates, state, params=None):
        del params
        rate = value_at(learning_rate, (state.count + 1) * every - 1)

        def average(m, progress):
            gamma = jnp.asarray(rate, m.dtype)
            return jnp.asarray(slow_momentum, m.dtype) * m + jnp.where(gamma > 0, progress / gamma, 0)  # Line 6

        momentum = jax.tree.map(average, state.momentum, updates)
        step = jax.tree.map(lambda m: -jnp.asarray(slow_learning_rate * rate, m.dtype) * m, momentum)  # Line 7
        return step, SlowMomentumState(optax.safe_increment(state.count), momentum)

    inner = optax.sgd(learning_rate, momentum, nesterov)
    outer = optax.GradientTransformation(init_fn, update_fn)
    return in_float32(local_updates(inner, outer, every=every, axis_name=axis_name))


METHODS = (
    Method(
        name="slowmo",
        factory=slowmo,
        kind="optimizer",
        summary="SGD on each worker, and a slow momentum over the steps that they agree on.",
        paper=Paper(
            "SlowMo: Improving Communication-Efficient Distributed SGD with Slow Momentum",
            "Wang et al.",
            2019,
            "1910.00643",
        ),
        also_known_as=("slow momentum", "SlowMomentumOptimizer", "BMUF", "blockwise model-update filtering"),
        parts=(local_updates_eval_params,),
        example={"learning_rate": 5e-3, "every": 4, "axis_name": "workers"},
        grid=1e-1,
        needs=("axis_name",),
        golden="diloco",
        eval_params=local_updates_eval_params,
    ),
)
