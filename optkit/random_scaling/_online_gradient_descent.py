"""Online gradient descent on discounted losses: an online learner that chooses the updates.

Zhang, Cutkosky, "Random Scaling and Momentum for Non-smooth Non-convex Optimization", 2024, arXiv:2405.09742. The
learner and its default hyperparameters are those of the authors' code (trainit, `unconstrained_ogd`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_range
from optkit.core.schedules import value_at
from optkit.method import Method
from optkit.random_scaling._random_scaling import RANDOM_SCALING

__all__ = ["online_gradient_descent"]


class OnlineGradientDescentState(NamedTuple):
    """State of `online_gradient_descent`.

    Attributes:
        count: Number of updates so far; equal on all workers.
        delta: The learner's point, which is the last update; shaped and sharded like the parameters.
    """

    count: jax.typing.ArrayLike
    delta: optax.Updates


def online_gradient_descent(
    learning_rate: optax.ScalarOrSchedule,
    beta: jax.typing.ArrayLike = 0.99,
    mu: jax.typing.ArrayLike = 100.0,
) -> optax.GradientTransformation:
    """Chooses each update by online gradient descent on discounted losses, which is a form of heavy-ball momentum.

    The update rule, where delta starts at zero::

        delta = beta / (1 + lr * mu) * (delta - lr * g)
        x = x + delta

    The losses of an update D are `beta**-n * (<g_n, D> + mu / 2 * |D|^2)`. At a constant learning rate the rule equals
    `optax.sgd(b * learning_rate, momentum=b)` with `b = beta / (1 + learning_rate * mu)`. So `mu` lowers the momentum.
    However large the learning rate is, one gradient moves the parameters by at most `beta / mu` times itself over all
    steps.

    Use it inside `randomly_scaled` or `online_to_nonconvex`, which turn it into an optimizer for losses that are
    neither convex nor smooth. Avoid it alone: there `optax.sgd` does the same with fewer hyperparameters.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. That of heavy-ball momentum is a good start.
        beta: Discount factor of past losses, in [0, 1]. Default: 0.99.
        mu: Strength of the L2 penalty on the update, at least 0. With 0 the momentum is `beta`. Default: 100.

    Returns:
        A transformation with an `OnlineGradientDescentState`: one number per parameter. Its update is added to the
        parameters as it is.

    Raises:
        ValueError: If `beta` or `mu` is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.online_gradient_descent(0.1, beta=0.5, mu=0.0)
        >>> params = jnp.array([2.0])
        >>> updates, state = tx.update(jnp.array([1.0]), tx.init(params), params)
        >>> tx.update(jnp.array([1.0]), state, params)[0]  # 0.5 * (-0.05 - 0.1)
        Array([-0.075], dtype=float32)

    Reference:
        arXiv:2405.09742
    """
    check_range("beta", beta, 0.0, 1.0)
    check_range("mu", mu, 0.0)

    def init_fn(params):
        return OnlineGradientDescentState(count=jnp.zeros([], jnp.int32), delta=optax.tree.zeros_like(params))

    def update_fn(updates, state, params=None):
        del params
        rate = value_at(learning_rate, state.count)
        discount = beta / (1 + rate * mu)
        delta = jax.tree.map(lambda d, g: discount * (d - rate * g), state.delta, updates)  # the learner's D_{n+1}
        new_state = OnlineGradientDescentState(
            count=optax.safe_increment(state.count), delta=optax.tree.cast_like(delta, state.delta)
        )
        return optax.tree.cast_like(delta, updates), new_state

    return optax.GradientTransformation(init_fn, update_fn)


METHODS = (
    Method(
        name="online_gradient_descent",
        factory=online_gradient_descent,
        kind="optimizer",
        summary="Chooses updates by online gradient descent on discounted losses: a form of momentum.",
        paper=RANDOM_SCALING,
        also_known_as=("OGD", "unconstrained_ogd"),
        example={"learning_rate": 2e-4, "beta": 0.9, "mu": 0.0},
        grid=0.1,
        golden="random_scaling",
    ),
)
