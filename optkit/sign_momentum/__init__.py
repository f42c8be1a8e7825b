"""Sign momentum: Lion with any convex kappa, Signum, cautious updates, Grams."""

import jax
import optax

from optkit.core.precision import in_float32
from optkit.method import Method, Paper, Variant
from optkit.sign_momentum import kappa
from optkit.sign_momentum._cautious import add_cautious_decayed_weights, cautious, cautious_adamw, cautious_lion
from optkit.sign_momentum._grams import grams, grams_adamw
from optkit.sign_momentum._lion_kappa import lion_kappa, scale_by_lion_kappa
from optkit.sign_momentum._signum import signum

__all__ = [
    "add_cautious_decayed_weights",
    "cautious",
    "cautious_adamw",
    "cautious_lion",
    "grams",
    "grams_adamw",
    "lion_kappa",
    "scale_by_lion_kappa",
    "signum",
]

_LION = Paper("Symbolic Discovery of Optimization Algorithms", "Chen et al.", 2023, "2302.06675")
_LION_KAPPA = Paper(
    "Lion Secretly Solves Constrained Optimization: As Lyapunov Predicts", "Chen, Liu, Liang, Liu", 2023, "2310.05898"
)
_SIGNUM = Paper(
    "signSGD: Compressed Optimisation for Non-Convex Problems", "Bernstein, Wang, Azizzadenesheli, Anandkumar", 2018,
    "1802.04434",
)  # fmt: skip
_CAUTIOUS = Paper(
    "Cautious Optimizers: Improving Training with One Line of Code", "Liang, Chen, Liu, Liu", 2024, "2411.16085"
)
_GRAMS = Paper("Grams: Gradient Descent with Adaptive Momentum Scaling", "Cao, Li, Song", 2024, "2412.17107")


def _cautious_momentum(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    return in_float32(cautious(optax.sgd(learning_rate, momentum=0.9)))


def _grams_momentum(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    return in_float32(grams(optax.sgd(learning_rate, momentum=0.9)))


def _adam_with_cautious_decay(
    learning_rate: optax.ScalarOrSchedule, weight_decay: float | jax.Array = 1e-4
) -> optax.GradientTransformation:
    return in_float32(
        optax.chain(
            optax.scale_by_adam(),
            add_cautious_decayed_weights(weight_decay),
            optax.scale_by_learning_rate(learning_rate),
        )
    )


ENTRIES = (
    Method(
        name="lion",
        factory=lion_kappa,
        family="sign_momentum",
        kind="optimizer",
        summary="The sign of an interpolation of momentum and gradient: `lion_kappa` with its default, the l1 norm.",
        paper=_LION,
        example={"learning_rate": 1e-2},
        grid=1e-3,
    ),
    Method(
        name="lion_kappa",
        factory=lion_kappa,
        family="sign_momentum",
        kind="optimizer",
        summary="Lion with any convex kappa; weight decay keeps the iterates in the ball of kappa's dual norm.",
        paper=_LION_KAPPA,
        example={"learning_rate": 1e-2, "kappa": kappa.lp(2.0)},
        grid=3e-2,
        variants={
            "linf": Variant({"kappa": kappa.linf()}, grid=3e-2),
            "soft": Variant({"kappa": kappa.soft(1e-4)}, grid=1e-3),
            "top_k": Variant({"kappa": kappa.top_k(64)}, grid=3e-3),
            "huber": Variant({"kappa": kappa.huber(1e-2)}, grid=3e-3),
            "half_squared_l2": Variant({"kappa": kappa.half_squared_l2(), "learning_rate": 2e-3}, grid=0.3),
            "group": Variant({"kappa": kappa.group()}, grid=1e-2),
            "nuclear": Variant({"kappa": kappa.nuclear()}, grid=1e-2),
            "relativistic": Variant({"kappa": kappa.relativistic(1e-2)}, grid=3e-3),
            "log_cosh": Variant({"kappa": kappa.log_cosh(1e-2)}, grid=3e-3),
        },
        golden="lion_k",
    ),
    Method(
        name="signum",
        factory=signum,
        family="sign_momentum",
        kind="optimizer",
        summary="The sign of the gradient's exponential average.",
        paper=_SIGNUM,
        example={"learning_rate": 1e-2},
        grid=1e-3,
    ),
    Method(
        name="cautious",
        factory=_cautious_momentum,
        family="sign_momentum",
        kind="wrapper",
        summary="Stops the coordinates in which an optimizer's update (here momentum's) and the gradient disagree.",
        paper=_CAUTIOUS,
        example={"learning_rate": 2e-3},
        grid=0.1,
        golden="c_adamw",
    ),
    Method(
        name="add_cautious_decayed_weights",
        factory=_adam_with_cautious_decay,
        family="sign_momentum",
        kind="transformation",
        summary="Decays only the parameters that the update (here Adam's) moves towards zero anyway.",
        paper=Paper("Cautious Weight Decay", "Chen et al.", 2025, "2510.12402"),
        example={"learning_rate": 1e-2},
        grid=3e-3,
    ),
    Method(
        name="cautious_adamw",
        factory=cautious_adamw,
        family="sign_momentum",
        kind="optimizer",
        summary="Cautious AdamW (C-AdamW), with the authors' epsilon and mask scaling.",
        paper=_CAUTIOUS,
        example={"learning_rate": 1e-2},
        grid=3e-3,
        golden="c_adamw",
    ),
    Method(
        name="cautious_lion",
        factory=cautious_lion,
        family="sign_momentum",
        kind="optimizer",
        summary="Cautious Lion (C-Lion), with the authors' mask scaling.",
        paper=_CAUTIOUS,
        example={"learning_rate": 1e-2},
        grid=1e-3,
        golden="c_lion",
    ),
    Method(
        name="grams",
        factory=_grams_momentum,
        family="sign_momentum",
        kind="wrapper",
        summary="Gives an optimizer's update (here momentum's) the sign of the gradient.",
        paper=_GRAMS,
        example={"learning_rate": 2e-3},
        grid=0.1,
    ),
    Method(
        name="grams_adamw",
        factory=grams_adamw,
        family="sign_momentum",
        kind="optimizer",
        summary="Grams: the size of AdamW's update with the sign of the gradient.",
        paper=_GRAMS,
        example={"learning_rate": 1e-2},
        grid=3e-3,
        golden="grams",
    ),
)
