"""Optimizer states of fewer numbers: second moments that coordinates share, momentum in subspaces, projections."""

from optkit.core.method import Method, Paper, Variant
from optkit.memory_efficient.coordinates import block_projector
from optkit.memory_efficient.frugal import frugal, frugal_adamw, frugal_lion
from optkit.memory_efficient.galore import galore_adamw
from optkit.memory_efficient.projector import Projector
from optkit.memory_efficient.snsm import adagrad_snsm, adam_snsm, sgd_sm
from optkit.memory_efficient.subset_norm import adagrad_sn, adam_sn, rmsprop_sn, scale_by_subset_norm
from optkit.memory_efficient.subspace_momentum import subspace_momentum
from optkit.memory_efficient.subspaces import subspace_projector

__all__ = [
    "Projector",
    "adagrad_sn",
    "adagrad_snsm",
    "adam_sn",
    "adam_snsm",
    "block_projector",
    "frugal",
    "frugal_adamw",
    "frugal_lion",
    "galore_adamw",
    "rmsprop_sn",
    "scale_by_subset_norm",
    "sgd_sm",
    "subspace_momentum",
    "subspace_projector",
]

_LEAN_AND_MEAN = Paper(
    "Lean and Mean Adaptive Optimization via Subset-Norm and Subspace-Momentum with Convergence Guarantees",
    "Nguyen, Nguyen", 2024, "2411.07120",
)  # fmt: skip
_FRUGAL = Paper(
    "FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable Training",
    "Zmushko, Beznosikov, Takáč, Horváth", 2024, "2411.07837",
)  # fmt: skip
_GALORE = Paper(
    "GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection", "Zhao et al.", 2024, "2403.03507"
)
_FRUGAL_STATIC = ("mask", "projector", "update_gap", "rest", "reset", "leaves", "key", "mu_dtype")
_SUBSPACE_STATIC = ("mask", "projector", "update_gap", "leaves", "stale_refresh", "key")

ENTRIES = (
    Method(
        name="adam_sn",
        factory=adam_sn,
        family="memory_efficient",
        kind="optimizer",
        summary="Adam with one second moment for each row or column of a matrix.",
        paper=_LEAN_AND_MEAN,
        example={"learning_rate": 1e-2},
        grid=3e-2,
        static=("mask", "subset_size", "subset_leaves", "bias_correction", "mu_dtype"),
        variants={"blocks": Variant({"subset_size": -1}, grid=3e-2)},
    ),
    Method(
        name="rmsprop_sn",
        factory=rmsprop_sn,
        family="memory_efficient",
        kind="optimizer",
        summary="RMSProp with one second moment for each row or column of a matrix, and no momentum.",
        paper=_LEAN_AND_MEAN,
        example={"learning_rate": 1e-2},
        grid=1e-2,
        static=("mask", "subset_size", "subset_leaves"),
    ),
    Method(
        name="adagrad_sn",
        factory=adagrad_sn,
        family="memory_efficient",
        kind="optimizer",
        summary="AdaGrad with one sum of squares for each row or column of a matrix, and a momentum.",
        paper=_LEAN_AND_MEAN,
        example={"learning_rate": 1.0},
        grid=0.3,
        static=("b1", "mask", "subset_size", "subset_leaves", "mu_dtype"),
    ),
    Method(
        name="adam_snsm",
        factory=adam_snsm,
        family="memory_efficient",
        kind="optimizer",
        summary="Adam with momentum in a subspace and one second moment for each row or column of a matrix.",
        paper=_LEAN_AND_MEAN,
        example={"learning_rate": 1e-2, "projector": subspace_projector("svd", rank=2)},
        grid=3e-2,
        static=(*_SUBSPACE_STATIC, "subset_size", "bias_correction"),
        variants={"uniform": Variant({"projector": subspace_projector("uniform", rank=2), "key": 0}, grid=3e-2)},
    ),
    Method(
        name="adagrad_snsm",
        factory=adagrad_snsm,
        family="memory_efficient",
        kind="optimizer",
        summary="AdaGrad with momentum in a subspace and one sum of squares for each row or column of a matrix.",
        paper=_LEAN_AND_MEAN,
        example={"learning_rate": 1.0, "projector": subspace_projector("topk", rank=2)},
        grid=0.3,
        static=(*_SUBSPACE_STATIC, "subset_size"),
    ),
    Method(
        name="sgd_sm",
        factory=sgd_sm,
        family="memory_efficient",
        kind="optimizer",
        summary="Gradient descent with momentum in a subspace only.",
        paper=_LEAN_AND_MEAN,
        example={"learning_rate": 2e-3, "projector": subspace_projector("svd", rank=2)},
        grid=0.1,
        static=_SUBSPACE_STATIC,
    ),
    Method(
        name="frugal_adamw",
        factory=frugal_adamw,
        family="memory_efficient",
        kind="optimizer",
        summary="AdamW in a subspace of each matrix's entries, signs of the gradient in the rest.",
        paper=_FRUGAL,
        example={"learning_rate": 1e-2, "projector": subspace_projector("svd", density=0.5)},
        grid=1e-3,
        static=_FRUGAL_STATIC,
        variants={
            "columns": Variant({"projector": subspace_projector("columns", density=0.5), "key": 0}, grid=1e-3),
            "blocks": Variant({"projector": block_projector(0.5), "key": 0}, grid=1e-3),
        },
    ),
    Method(
        name="frugal_lion",
        factory=frugal_lion,
        family="memory_efficient",
        kind="optimizer",
        summary="Lion in a subspace of each matrix's entries, signs of the gradient in the rest.",
        paper=_FRUGAL,
        example={"learning_rate": 1e-2, "projector": subspace_projector("randk", density=0.5), "key": 0},
        grid=3e-4,
        static=_FRUGAL_STATIC,
    ),
    Method(
        name="galore_adamw",
        factory=galore_adamw,
        family="memory_efficient",
        kind="optimizer",
        summary="AdamW in the subspace of each matrix's largest singular vectors, nothing in the rest.",
        paper=_GALORE,
        example={"learning_rate": 3e-2, "projector": subspace_projector("svd", rank=2), "update_gap": 50},
        grid=1e-2,
        static=("mask", "projector", "update_gap", "leaves", "key", "mu_dtype"),
    ),
)
