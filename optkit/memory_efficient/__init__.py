"""Optimizer states of fewer numbers: second moments that coordinates share, momentum in subspaces, projections."""

from optkit.memory_efficient._blocks import block_projector, carry_over, choose_blocks, frugal_blocks
from optkit.memory_efficient._error_feedback import error_feedback
from optkit.memory_efficient._frugal import frugal, frugal_adamw, frugal_lion
from optkit.memory_efficient._galore import galore_adamw
from optkit.memory_efficient._ggt import ggt, scale_by_ggt, sparse_ggt
from optkit.memory_efficient._m_fac import m_fac, scale_by_m_fac, sparse_m_fac
from optkit.memory_efficient._micro_adam import micro_adam, scale_by_micro_adam
from optkit.memory_efficient._projector import Projector
from optkit.memory_efficient._snsm import adagrad_snsm, adam_snsm, sgd_sm
from optkit.memory_efficient._subset_norm import adagrad_sn, adam_sn, rmsprop_sn, scale_by_subset_norm
from optkit.memory_efficient._subspace_momentum import subspace_momentum
from optkit.memory_efficient._subspaces import subspace_projector
from optkit.method import Method, Paper, Variant

__all__ = [
    "Projector",
    "adagrad_sn",
    "adagrad_snsm",
    "adam_sn",
    "adam_snsm",
    "block_projector",
    "carry_over",
    "choose_blocks",
    "error_feedback",
    "frugal",
    "frugal_adamw",
    "frugal_blocks",
    "frugal_lion",
    "galore_adamw",
    "ggt",
    "m_fac",
    "micro_adam",
    "rmsprop_sn",
    "scale_by_ggt",
    "scale_by_m_fac",
    "scale_by_micro_adam",
    "scale_by_subset_norm",
    "sgd_sm",
    "sparse_ggt",
    "sparse_m_fac",
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
_MICRO_ADAM = Paper(
    "MicroAdam: Accurate Adaptive Optimization with Low Space Overhead and Provable Convergence",
    "Modoranu et al.", 2024, "2405.15593",
)  # fmt: skip
_M_FAC = Paper(
    "M-FAC: Efficient Matrix-Free Approximations of Second-Order Information", "Frantar, Kurtic, Alistarh", 2021,
    "2107.03356",
)  # fmt: skip
_GGT = Paper("Efficient Full-Matrix Adaptive Regularization", "Agarwal et al.", 2018, "1806.02958")
_EFCP = Paper("Error Feedback Can Accurately Compress Preconditioners", "Modoranu et al.", 2023, "2306.06098")

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
    ),
    Method(
        name="micro_adam",
        factory=micro_adam,
        family="memory_efficient",
        kind="optimizer",
        summary="Adam on the largest entries of the last 10 gradients, with the rest fed back from 4 bits a parameter.",
        paper=_MICRO_ADAM,
        example={"learning_rate": 1e-2},
        grid=1e-3,
        golden="microadam",
    ),
    Method(
        name="m_fac",
        factory=m_fac,
        family="memory_efficient",
        kind="optimizer",
        summary="Natural gradients from a window of the last gradients.",
        paper=_M_FAC,
        example={"learning_rate": 0.1, "window": 4, "damping": 1.0},
        grid=1e-2,
        golden="mfac",
    ),
    Method(
        name="sparse_m_fac",
        factory=sparse_m_fac,
        family="memory_efficient",
        kind="optimizer",
        summary="Natural gradients from a window of the last gradients' largest entries, with error feedback.",
        paper=_EFCP,
        example={"learning_rate": 0.1, "window": 4, "damping": 1.0, "density": 0.25},
        grid=1e-2,
        golden="efcp_mfac",
    ),
    Method(
        name="ggt",
        factory=ggt,
        family="memory_efficient",
        kind="optimizer",
        summary="AdaGrad with a full matrix from a window of the last gradients.",
        paper=_GGT,
        example={"learning_rate": 0.1, "window": 4},
        grid=3e-2,
        variants={"momentum": Variant({"b1": 0.9, "b2": 0.99, "eps": 0.1, "learning_rate": 0.03}, grid=3e-3)},
    ),
    Method(
        name="sparse_ggt",
        factory=sparse_ggt,
        family="memory_efficient",
        kind="optimizer",
        summary="AdaGrad with a full matrix from a window of the last gradients' largest entries, with error feedback.",
        paper=_EFCP,
        example={"learning_rate": 0.1, "window": 4, "density": 0.25},
        grid=3e-2,
        golden="efcp_ggt",
    ),
)
