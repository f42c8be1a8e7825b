"""Online gradient descent on discounted losses: a learner that chooses updates.

Zhang, Cutkosky, "Random Scaling and Momentum for Non-smooth Non-convex Optimization", 2024, arXiv:2405.09742.
The learner is that of the authors' code (trainit, `unconstrained_ogd`), with its default hyperparameters.
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
        count: number of updates so far, equal on all workers.
        delta: the learner's point, which is the last update; shaped and sharded like the parameters.
    """

    count: jax.typing.ArrayLike
    delta: optax.Updates


def online_gradient_descent(
    learning_rate: optax.ScalarOrSchedule,
    beta: jax.typing.ArrayLike = 0.99,
    mu: jax.typing.ArrayLike = 100.0,
) -> optax.GradientTransformation:
    """An online learner that chooses updates: descends on the losses `beta**-n * (<g_n, D> + mu / 2 * |D|^2)` of `D`.

    Its update is its point `D` itself, to be added to the parameters as it is. That is heavy-ball momentum: at a
    constant learning rate it equals `optax.sgd(b * learning_rate, momentum=b)` with `b = beta / (1 + learning_rate *
    mu)`. So `mu` lowers the momentum, and however large the learning rate, no gradient moves the parameters further
    than `beta / mu` times itself in all.

    Args:
        learning_rate: a positive number or a schedule; about that of heavy-ball momentum.
        beta: discount of past losses, in [0, 1]; default 0.99.
        mu: strength of the regularization of the update, at least 0; default 100. 0 leaves the momentum `beta`.

    Returns:
        A transformation with an `OnlineGradientDescentState`: one number a parameter.

    Raises:
        ValueError: if `beta` or `mu` is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.online_gradient_descent(0.1, beta=0.5, mu=0.0)
        >>> params = jnp.array([2.0])
        >>> updates, state = tx.update(jnp.array([1.0]), tx.init(params), params)
        >>> tx.update(jnp.array([1.0]), state, params)[0]  # 0.5 * (-0.05 - 0.1)
        Array([-0.075], dtype=float32)

    Reference:
        Zhang, Cutkosky, "Random Scaling and Momentum for Non-smooth Non-convex Optimization", 2024, arXiv:2405.09742.
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
        summary="Online gradient descent on discounted losses of the update: momentum, as an online learner.",
        paper=RANDOM_SCALING,
        also_known_as=("OGD", "unconstrained_ogd"),
        example={"learning_rate": 2e-4, "beta": 0.9, "mu": 0.0},
        grid=0.1,
        golden="random_scaling",
    ),
)
