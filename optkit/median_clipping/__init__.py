"""Medians in place of means: of gradients over time, over samples, coordinate by coordinate."""

from optkit.median_clipping import median_step
from optkit.median_clipping._class_normalized import class_normalized, class_normalized_sgd
from optkit.median_clipping._coordinate_clip import clip_by_quantile, coordinate_clip_sgd
from optkit.median_clipping._coordinate_median import coordinate_median, coordinate_median_sgd
from optkit.median_clipping._cvar import cvar_prox_linear, cvar_subgradient
from optkit.median_clipping._geometric_median import geometric_median, geometric_median_sgd
from optkit.median_clipping._median_tracking import clipped_sgd, median_tracking_sgd, scale_by_median_tracking
from optkit.median_clipping._proximal_median import proximal_median, proximal_median_sgd, proximal_pass
from optkit.method import Method, Paper, Variant

__all__ = [
    "class_normalized",
    "class_normalized_sgd",
    "clip_by_quantile",
    "clipped_sgd",
    "coordinate_clip_sgd",
    "coordinate_median",
    "coordinate_median_sgd",
    "cvar_prox_linear",
    "cvar_subgradient",
    "geometric_median",
    "geometric_median_sgd",
    "median_tracking_sgd",
    "proximal_median",
    "proximal_median_sgd",
    "proximal_pass",
    "scale_by_median_tracking",
]

_MEDIAN = Paper("SGD with Clipping is Secretly Estimating the Median Gradient", "Schaipp et al.", 2024, "2402.12828")
_RFA = Paper("Robust Aggregation for Federated Learning", "Pillutla, Kakade, Harchaoui", 2019, "1912.13445")
_COORDINATE_CLIP = Paper(
    "Toward Understanding Why Adam Converges Faster Than SGD for Transformers", "Pan, Li", 2023, "2306.00204"
)
_CVAR = Paper("A Model-Based Method for Minimizing CVaR and Beyond", "Meng, Gower", 2023, "2305.17498")
_CLASS_IMBALANCE = Paper(
    "A Theoretical Analysis of the Learning Dynamics under Class Imbalance", "Francazi, Baity-Jesi, Lucchi", 2023,
    "2207.00391",
)  # fmt: skip

ENTRIES = (
    Method(
        name="median_tracking_sgd",
        factory=median_tracking_sgd,
        family="median_clipping",
        kind="optimizer",
        summary="Tracks the median of the gradients across iterations by proximal steps; clipping with a memory.",
        paper=_MEDIAN,
        example={"learning_rate": 2e-3, "tau": 1.0},
        grid=1.0,
        variants={
            "l1": Variant({"step": median_step.l1(), "tau": 1e-2}, grid=1.0),
            "linf": Variant({"step": median_step.linf()}, grid=0.3),
            "huber": Variant({"step": median_step.huber(1.0), "tau": 0.1}, grid=1.0),
        },
        golden="median_tracking",
    ),
    Method(
        name="clipped_sgd",
        factory=clipped_sgd,
        family="median_clipping",
        kind="optimizer",
        summary="Median-clipped SGD: one proximal step from zero towards the gradient, clipping by the global norm.",
        paper=_MEDIAN,
        example={"learning_rate": 1e-3, "momentum": 0.9},
        grid=0.3,
        variants={"l1": Variant({"step": median_step.l1(), "tau": 1e-2, "learning_rate": 0.02}, grid=0.3)},
    ),
    Method(
        name="coordinate_median",
        factory=coordinate_median_sgd,
        family="median_clipping",
        kind="aggregator",
        summary="The median of each coordinate over samples, microbatches or workers, in place of the mean.",
        paper=_MEDIAN,
        example={"learning_rate": 2e-3},
        grid=1.0,
        rows="microbatches",
    ),
    Method(
        name="geometric_median",
        factory=geometric_median_sgd,
        family="median_clipping",
        kind="aggregator",
        summary="The geometric median over samples, microbatches or workers by Weiszfeld's iterations (RFA).",
        paper=_RFA,
        example={"learning_rate": 2e-3},
        grid=1.0,
        rows="microbatches",
        golden="rfa",
    ),
    Method(
        name="proximal_median",
        factory=proximal_median_sgd,
        family="median_clipping",
        kind="aggregator",
        summary="The median, of any norm, over samples, microbatches or workers by stochastic proximal point steps.",
        paper=_MEDIAN,
        example={"learning_rate": 2e-3, "tau": 1.0},
        grid=1.0,
        rows="microbatches",
    ),
    Method(
        name="coordinate_clip",
        factory=coordinate_clip_sgd,
        family="median_clipping",
        kind="optimizer",
        summary="SGD that clips a fixed fraction of the coordinates, the largest, to the smallest of them.",
        paper=_COORDINATE_CLIP,
        example={"learning_rate": 2e-3},
        grid=1.0,
    ),
    Method(
        name="cvar_prox_linear",
        factory=cvar_prox_linear,
        family="median_clipping",
        kind="optimizer",
        summary="Minimizes the mean of the largest losses (CVaR) by stochastic prox-linear steps.",
        paper=_CVAR,
        example={"learning_rate": 0.3},
        grid=0.1,
        needs=("value",),
        golden="cvar",
    ),
    Method(
        name="cvar_subgradient",
        factory=cvar_subgradient,
        family="median_clipping",
        kind="optimizer",
        summary="Minimizes the mean of the largest losses (CVaR) by stochastic subgradient steps.",
        paper=_CVAR,
        example={"learning_rate": 1e-3, "beta": 0.5, "decay": "constant"},
        grid=1e-2,
        needs=("value",),
        golden="cvar",
    ),
    Method(
        name="class_normalized_sgd",
        factory=class_normalized_sgd,
        family="median_clipping",
        kind="optimizer",
        summary="SGD on the sum of the classes' gradients, each divided by its norm (PCNGD, PCNSGD).",
        paper=_CLASS_IMBALANCE,
        example={"learning_rate": 1e-2},
        grid=1e-2,
        rows="classes",
        golden="class_normalized",
    ),
)
