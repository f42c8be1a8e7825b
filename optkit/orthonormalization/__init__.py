"""Orthonormalized updates of matrices: Dion, Muon and their relatives, sharded or not."""

from optkit.core.method import Method, Paper, Variant
from optkit.core.newton_schulz import orthogonalize as newton_schulz
from optkit.core.newton_schulz import polar_express
from optkit.core.orthonormal import cholesky_qr, householder_qr, randomized_cholesky_qr
from optkit.orthonormalization.dion import dion, scale_by_dion, sync_momentum
from optkit.orthonormalization.muon import muon, scale_by_muon

__all__ = [
    "cholesky_qr",
    "dion",
    "householder_qr",
    "muon",
    "newton_schulz",
    "polar_express",
    "randomized_cholesky_qr",
    "scale_by_dion",
    "scale_by_muon",
    "sync_momentum",
]

_DION = Paper("Dion: Distributed Orthonormalized Updates", "Ahn et al.", 2025, "2504.05295")
_MUON = Paper("Muon is Scalable for LLM Training", "Liu et al.", 2025, "2502.16982")

ENTRIES = (
    Method(
        name="dion",
        factory=dion,
        family="orthonormalization",
        kind="optimizer",
        summary="The orthonormalized low-rank part of the momentum, by power iteration; Lion on other parameters.",
        paper=_DION,
        example={"learning_rate": 1e-2, "weight_decay": 0.0},
        grid=1e-2,
        static=(
            "rank_fraction",
            "mask",
            "labels",
            "rank",
            "rank_multiple_of",
            "power_iterations",
            "transpose",
            "orthonormalize",
            "weight_dimension_numbers",
            "axis_name",
            "key",
            "mu_dtype",
        ),
        variants={"full_rank": Variant({"rank_fraction": 1.0}, grid=1e-2)},
    ),
    Method(
        name="muon",
        factory=muon,
        family="orthonormalization",
        kind="optimizer",
        summary="The momentum orthogonalized by Newton-Schulz steps, as published; AdamW on other parameters.",
        paper=_MUON,
        example={"learning_rate": 1e-2},
        grid=2e-2,
        static=(
            "mask",
            "labels",
            "nesterov",
            "ema",
            "orthogonalize",
            "scale",
            "scale_by_last_axes",
            "row_blocks",
            "cautious_decay",
            "weight_dimension_numbers",
            "mu_dtype",
        ),
        variants={
            "moonlight": Variant({"scale": "rms", "ema": False, "learning_rate": 1e-2}, grid=3e-3),
            "polar_express": Variant({"orthogonalize": polar_express, "scale": "spectral"}, grid=2e-2),
        },
    ),
)
