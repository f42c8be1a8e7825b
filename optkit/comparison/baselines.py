"""The optimizers of Optax that all others are compared with, as entries like those of the catalog."""

from typing import Any

import jax
import optax
from optax import contrib

from optkit.core import keys
from optkit.core.extra_args import required
from optkit.core.types import Key
from optkit.method import Method, Paper

# What all others are measured against.
YARDSTICK = "adamw"


def _sgd(learning_rate: optax.ScalarOrSchedule, momentum: float = 0.9) -> optax.GradientTransformationExtraArgs:
    return optax.sgd(learning_rate, momentum)


def _sophia(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.965,
    b2: float = 0.99,
    gamma: float = 0.01,
    weight_decay: float = 1e-4,
    key: Key = 0,
) -> optax.GradientTransformationExtraArgs:
    """Sophia with Hutchinson's estimator, which takes `grad_fn` as all methods do and not a loss, as in Optax."""
    hutchinson = contrib.hutchinson_estimator_diag_hessian(keys.key_data(key))
    inner = contrib.sophia(
        learning_rate, b1=b1, b2=b2, gamma=gamma, weight_decay=weight_decay, hessian_diagonal_fn=hutchinson
    )

    def update_fn(updates, state, params=None, *, grad_fn=None, **extra_args):
        del extra_args
        grad_fn = required(grad_fn, "grad_fn", "sophia", "grad_fn=jax.grad(loss)")

        # Derivatives of `value_fn` would not be averaged over the workers; those of `grad_fn` are. Only they are read.
        @jax.custom_jvp
        def objective(point):
            return optax.tree.sum(point)

        @objective.defjvp
        def _(points, tangents):
            return objective(*points), optax.tree.vdot(grad_fn(*points), *tangents)

        return inner.update(updates, state, params, obj_fn=objective)

    return optax.GradientTransformationExtraArgs(inner.init, update_fn)


def _muon(
    learning_rate: optax.ScalarOrSchedule,
    beta: float = 0.95,
    weight_decay: float = 0.0,
    weight_dimension_numbers: Any | None = None,
) -> optax.GradientTransformation:
    """Muon with the name that optkit's methods have for the argument that says which leaves are matrices."""
    return contrib.muon(
        learning_rate,
        beta=beta,
        weight_decay=weight_decay,
        adam_weight_decay=weight_decay,
        muon_weight_dimension_numbers=weight_dimension_numbers,
    )


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
        Method(
            name="adafactor",
            factory=optax.adafactor,
            family="baselines",
            kind="optimizer",
            summary="Steps relative to the size of parameters; second moments of large matrices by rows and columns.",
            paper=Paper(
                "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", "Shazeer, Stern", 2018, "1804.04235"
            ),
            example={"learning_rate": 3e-2},
            grid=3e-2,
        ),
        Method(
            name="lamb",
            factory=optax.lamb,
            family="baselines",
            kind="optimizer",
            summary="Adam with steps as long as the parameters of each leaf.",
            paper=Paper(
                "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes",
                "You et al.",
                2019,
                "1904.00962",
            ),
            example={"learning_rate": 1e-2},
            grid=1e-2,
        ),
        Method(
            name="ademamix",
            factory=contrib.ademamix,
            family="baselines",
            kind="optimizer",
            summary="Adam with a second, much slower average of gradients added to the first.",
            paper=Paper(
                "The AdEMAMix Optimizer: Better, Faster, Older", "Pagliardini, Ablin, Grangier", 2024, "2409.03137"
            ),
            example={"learning_rate": 3e-3},
            grid=3e-3,
            tunable={"alpha": (1.0, 10.0, "log"), "b3": (0.99, 0.9999, "1-log")},
        ),
        Method(
            name="adopt",
            factory=contrib.adopt,
            family="baselines",
            kind="optimizer",
            summary="Adam that divides by the second moment of earlier gradients only, before momentum.",
            # Optax's documentation has another paper's arXiv id.
            paper=Paper(
                "ADOPT: Modified Adam Can Converge with Any β2 with the Optimal Rate",
                "Taniguchi et al.",
                2024,
                "2411.02853",
            ),
            example={"learning_rate": 3e-3},
            grid=3e-3,
        ),
        Method(
            name="schedule_free_adamw",
            factory=contrib.schedule_free_adamw,
            family="baselines",
            kind="optimizer",
            summary="AdamW with an average of the iterates in momentum's place.",
            paper=Paper("The Road Less Scheduled", "Defazio et al.", 2024, "2405.15682"),
            also_known_as=("schedule_free", "Schedule-Free"),
            # Under the schedule of all others: constant rates, warmed up or not, do no better on `digits-mlp`, and
            # worse on `matrix-sensing`.
            example={"learning_rate": 1e-2},
            grid=1e-2,
            eval_params=contrib.schedule_free_eval_params,
        ),
        Method(
            name="sophia",
            factory=_sophia,
            family="baselines",
            kind="optimizer",
            summary="Momentum divided by an estimate of the Hessian's diagonal, clipped entry by entry.",
            paper=Paper(
                "Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training",
                "Liu et al.",
                2023,
                "2305.14342",
            ),
            example={"learning_rate": 1e-3},
            grid=1e-3,
            tunable={"gamma": (1e-3, 0.1, "log")},
            needs=("grad_fn",),
        ),
        Method(
            name="optax_muon",
            factory=_muon,
            family="baselines",
            kind="optimizer",
            summary="Optax's Muon: moves matrices by the orthogonalized momentum; AdamW on other parameters.",
            paper=Paper("Muon: An optimizer for hidden layers in neural networks", "Jordan et al.", 2024),
            also_known_as=("optax.contrib.muon",),
            example={"learning_rate": 1e-2},
            grid=2e-2,
        ),
        # The next three find the length of a step by themselves; their learning rate is a factor near 1.
        Method(
            name="momo",
            factory=contrib.momo,
            family="baselines",
            kind="optimizer",
            summary="Momentum with Polyak's step length for losses of at least 0, at most the learning rate.",
            paper=Paper("MoMo: Momentum Models for Adaptive Learning Rates", "Schaipp et al.", 2023, "2305.07583"),
            example={"learning_rate": 1.0},
            grid=1.0,
            needs=("value",),
        ),
        Method(
            name="dog",
            factory=contrib.dog,
            family="baselines",
            kind="optimizer",
            summary="SGD with steps of the largest distance from the start, over the norm of all gradients.",
            paper=Paper(
                "DoG is SGD's Best Friend: A Parameter-Free Dynamic Step Size Schedule",
                "Ivgi, Hinder, Carmon",
                2023,
                "2302.12022",
            ),
            example={"learning_rate": 1.0},
            grid=1.0,
        ),
        Method(
            name="prodigy",
            factory=contrib.prodigy,
            family="baselines",
            kind="optimizer",
            summary="Adam with an estimate of the distance to the solution as the length of its steps.",
            paper=Paper(
                "Prodigy: An Expeditiously Adaptive Parameter-Free Learner", "Mishchenko, Defazio", 2023, "2306.06101"
            ),
            # Its authors advise the safeguard for schedules that warm up, as that of `compare` does.
            example={"learning_rate": 1.0, "safeguard_warmup": True},
            grid=1.0,
        ),
    )
}
