"""Random scaling: updates of random length, and optimizers made of online learners by them."""

import jax
import optax

from optkit.core.precision import in_float32
from optkit.method import Method, Paper, Variant
from optkit.random_scaling._exponentiated_sgdm import exponentiated_sgdm, online_gradient_descent
from optkit.random_scaling._iterate_average import average_iterates, averaged_params
from optkit.random_scaling._online_to_nonconvex import online_to_nonconvex
from optkit.random_scaling._random_scaling import (
    Distribution,
    exponentiated_adamw,
    randomly_scaled,
    scale_by_exponential,
)

__all__ = [
    "average_iterates",
    "averaged_params",
    "exponentiated_adamw",
    "exponentiated_sgdm",
    "online_gradient_descent",
    "online_to_nonconvex",
    "randomly_scaled",
    "scale_by_exponential",
]

_RANDOM_SCALING = Paper(
    "Random Scaling and Momentum for Non-smooth Non-convex Optimization", "Zhang, Cutkosky", 2024, "2405.09742"
)
_CONVERSION = Paper(
    "Optimal Stochastic Non-smooth Non-convex Optimization through Online-to-Non-convex Conversion",
    "Cutkosky, Mehta, Orabona", 2023, "2302.03775",
)  # fmt: skip


def _randomly_scaled_momentum(
    learning_rate: optax.ScalarOrSchedule, distribution: Distribution = "exponential", *, key: int | jax.Array
) -> optax.GradientTransformation:
    return in_float32(randomly_scaled(optax.sgd(learning_rate, momentum=0.9), distribution, key=key))


def _converted_gradient_descent(
    learning_rate: optax.ScalarOrSchedule,
    beta: jax.typing.ArrayLike = 0.9,
    mu: jax.typing.ArrayLike = 0.0,
    *,
    key: int | jax.Array,
) -> optax.GradientTransformation:
    learner = online_gradient_descent(learning_rate, beta, mu)
    return in_float32(optax.chain(online_to_nonconvex(learner, key=key), average_iterates(beta)))


ENTRIES = (
    Method(
        name="randomly_scaled",
        factory=_randomly_scaled_momentum,
        family="random_scaling",
        kind="wrapper",
        summary="Multiplies an optimizer's update (here momentum's) by one random number of mean one.",
        paper=_RANDOM_SCALING,
        example={"learning_rate": 2e-4, "key": 0},
        grid=0.1,
        variants={"uniform": Variant({"distribution": "uniform"}, grid=0.1)},
        golden="random_scaling",
    ),
    Method(
        name="exponentiated_sgdm",
        factory=exponentiated_sgdm,
        family="random_scaling",
        kind="optimizer",
        summary="Momentum as online gradient descent on discounted losses, its steps scaled at random.",
        paper=_RANDOM_SCALING,
        example={"learning_rate": 2e-4, "beta": 0.9, "mu": 0.0, "key": 0},
        grid=0.1,
        golden="random_scaling",
    ),
    Method(
        name="exponentiated_adamw",
        factory=exponentiated_adamw,
        family="random_scaling",
        kind="optimizer",
        summary="AdamW whose whole update is scaled by an exponentially distributed number of mean one.",
        paper=_RANDOM_SCALING,
        example={"learning_rate": 1e-2, "key": 0},
        grid=3e-3,
        golden="random_scaling",
    ),
    Method(
        name="online_to_nonconvex",
        factory=_converted_gradient_descent,
        family="random_scaling",
        kind="wrapper",
        summary="Takes gradients at random points of an online learner's way (here momentum's); reports their average.",
        paper=_CONVERSION,
        example={"learning_rate": 2e-4, "key": 0},
        grid=0.1,
        eval_params=averaged_params,
    ),
)
