"""Exponentiated SGDM: momentum as online gradient descent on discounted losses, with steps of random length.

Zhang, Cutkosky, "Random Scaling and Momentum for Non-smooth Non-convex Optimization", 2024, arXiv:2405.09742. The
online learner is `online_gradient_descent`.
"""

import jax
import optax

from optkit.core.precision import in_float32
from optkit.core.types import Key
from optkit.method import Method
from optkit.random_scaling._online_gradient_descent import online_gradient_descent
from optkit.random_scaling._random_scaling import RANDOM_SCALING, scale_by_exponential

__all__ = ["exponentiated_sgdm"]


def exponentiated_sgdm(
    learning_rate: optax.ScalarOrSchedule,
    beta: jax.typing.ArrayLike = 0.99,
    mu: jax.typing.ArrayLike = 100.0,
    *,
    key: Key,
) -> optax.GradientTransformationExtraArgs:
    """SGD with momentum whose every step is multiplied by an exponentially distributed random number with mean 1.

    The update rule, where delta starts at zero and s is one random number for all parameters::

        delta = beta / (1 + lr * mu) * (delta - lr * g)
        s = a draw from the exponential distribution with mean 1
        x = x + s * delta

    With `mu=0` it is randomly scaled heavy-ball momentum with decay rate `beta`. The defaults are the authors'.

    Use it when the loss is neither convex nor smooth. The theory bounds gradients at the averaged parameters, so chain
    `average_iterates(beta)` after it and evaluate the average. Avoid it when steps must not vary: the longest of 1,000
    draws is about 7, and the mean of their squares is 2, so the largest stable learning rate is smaller.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. With `mu` above 0 it also lowers the
            momentum, see `online_gradient_descent`: at 1e-3 and the other defaults the momentum is 0.9.
        beta: See `online_gradient_descent`. Default: 0.99.
        mu: See `online_gradient_descent`. Default: 100.
        key: Seed of the random draws, an integer or a JAX key. Must be equal on all workers.

    Returns:
        An optimizer. Its state is one number per parameter and a key.

    Raises:
        ValueError: If `beta` or `mu` is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optax.chain(optkit.exponentiated_sgdm(1e-3, key=0), optkit.average_iterates(0.99))
        >>> params = jnp.array([3.0, -4.0])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> params = optax.apply_updates(params, updates)
        >>> bool(jnp.allclose(optkit.averaged_params(state, params), params))  # of one point
        True

    Reference:
        arXiv:2405.09742
    """
    return in_float32(optax.chain(online_gradient_descent(learning_rate, beta, mu), scale_by_exponential(key)))


METHODS = (
    Method(
        name="exponentiated_sgdm",
        factory=exponentiated_sgdm,
        kind="optimizer",
        summary="SGD with momentum whose steps are multiplied by an exponentially distributed random number.",
        paper=RANDOM_SCALING,
        also_known_as=("Exponentiated O2NC", "exponentiated SGD with momentum"),
        example={"learning_rate": 2e-4, "beta": 0.9, "mu": 0.0, "key": 0},
        grid=0.1,
        golden="random_scaling",
    ),
)
