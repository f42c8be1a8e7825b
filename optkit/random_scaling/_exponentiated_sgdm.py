"""Exponentiated SGDM: momentum as online gradient descent on discounted losses, its steps scaled at random.

Zhang, Cutkosky, "Random Scaling and Momentum for Non-smooth Non-convex Optimization", 2024, arXiv:2405.09742.
The learner is `online_gradient_descent`.
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
    """Momentum whose every step is scaled by an exponentially distributed number of mean one.

    For losses that are neither convex nor smooth. What the theory reports is the averaged iterate: chain
    `average_iterates(beta)` after it. The defaults are the authors'; with `mu=0` it is heavy-ball momentum of decay
    `beta`, randomly scaled. Do not take it where steps must not vary.

    Args:
        learning_rate: a positive number or a schedule. It lowers the momentum, as `online_gradient_descent` says: to
            0.9 at 1e-3 with the other defaults.
        beta: discount of past losses, in [0, 1]; default 0.99.
        mu: strength of the regularization of the update, at least 0; default 100.
        key: an integer or a JAX key, equal on all workers.

    Returns:
        An optimizer; its state is one number a parameter.

    Raises:
        ValueError: if `beta` or `mu` is out of its range.

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
        Zhang, Cutkosky, "Random Scaling and Momentum for Non-smooth Non-convex Optimization", 2024, arXiv:2405.09742.
    """
    return in_float32(optax.chain(online_gradient_descent(learning_rate, beta, mu), scale_by_exponential(key)))


METHODS = (
    Method(
        name="exponentiated_sgdm",
        factory=exponentiated_sgdm,
        kind="optimizer",
        summary="Momentum as online gradient descent on discounted losses, its steps scaled at random.",
        paper=RANDOM_SCALING,
        also_known_as=("Exponentiated O2NC", "exponentiated SGD with momentum"),
        example={"learning_rate": 2e-4, "beta": 0.9, "mu": 0.0, "key": 0},
        grid=0.1,
        golden="random_scaling",
    ),
)
