"""The optimizers of Optax that all others are compared with, as entries like those of the catalog."""

import optax

from optkit.method import Method, Paper

# What all others are measured against.
YARDSTICK = "adamw"


def _sgd(learning_rate: optax.ScalarOrSchedule, momentum: float = 0.9) -> optax.GradientTransformationExtraArgs:
    return optax.sgd(learning_rate, momentum)


BASELINES = {
    method.name: method
    for method in (
        Method(
            name="sgd",
            factory=_sgd,
            family="baselines",
            kind="optimizer",
            summary="Stochastic gradient descent with heavy-ball momentum.",
            paper=Paper("Some methods of speeding up the convergence of iteration methods", "Polyak", 1964, ""),
            example={"learning_rate": 0.1},
            grid=0.1,
        ),
        Method(
            name="adamw",
            factory=optax.adamw,
            family="baselines",
            kind="optimizer",
            summary="Adam with decoupled weight decay.",
            paper=Paper("Decoupled Weight Decay Regularization", "Loshchilov, Hutter", 2017, "1711.05101"),
            example={"learning_rate": 3e-3},
            grid=3e-3,
        ),
        Method(
            name="lion",
            factory=optax.lion,
            family="baselines",
            kind="optimizer",
            summary="The sign of an interpolation of momentum and gradient.",
            paper=Paper("Symbolic Discovery of Optimization Algorithms", "Chen et al.", 2023, "2302.06675"),
            example={"learning_rate": 1e-2},
            grid=1e-3,
        ),
    )
}
