"""Orthonormalized updates of matrices: Dion, Muon and their relatives, sharded or not."""

from optkit.core.linalg.matrix_view import flax_dimension_numbers
from optkit.core.linalg.newton_schulz import polar_express
from optkit.method import Method, Paper, Variant
from optkit.orthonormalization._dion import dion, scale_by_dion, sync_momentum
from optkit.orthonormalization._dion2 import dion2, scale_by_dion2
from optkit.orthonormalization._muon import muon, scale_by_muon
from optkit.orthonormalization._nordion2 import nordion2, scale_by_nordion2
from optkit.orthonormalization._normuon import normuon, scale_by_normuon
from optkit.orthonormalization._sharded_dion import scale_by_sharded_dion, sharded_dion, sharded_dion_specs

__all__ = [
    "dion",
    "dion2",
    "flax_dimension_numbers",
    "muon",
    "nordion2",
    "normuon",
    "scale_by_dion",
    "scale_by_dion2",
    "scale_by_muon",
    "scale_by_nordion2",
    "scale_by_normuon",
    "scale_by_sharded_dion",
    "sharded_dion",
    "sharded_dion_specs",
    "sync_momentum",
]

_DION = Paper("Dion: Distributed Orthonormalized Updates", "Ahn et al.", 2025, "2504.05295")
_MUON = Paper("Muon is Scalable for LLM Training", "Liu et al.", 2025, "2502.16982")
_DION2 = Paper("Dion2: A Simple Method to Shrink Matrix in Muon", "Ahn, Amsel, Langford", 2025, "2512.16928")
_NORMUON = Paper("NorMuon: Making Muon more efficient and scalable", "Li et al.", 2025, "2510.05491")

ENTRIES = (
    Method(
        name="dion",
        factory=dion,
        family="orthonormalization",
        kind="optimizer",
        summary="The orthonormalized low-rank part of the momentum, by power iteration; AdamW on other parameters.",
        paper=_DION,
        example={"learning_rate": 1e-2, "weight_decay": 0.0},
        grid=1e-2,
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
        variants={
            "moonlight": Variant({"scale": "rms", "ema": False, "learning_rate": 1e-2}, grid=3e-3),
            "polar_express": Variant({"orthogonalize": polar_express, "scale": "spectral"}, grid=2e-2),
        },
    ),
    Method(
        name="dion2",
        factory=dion2,
        family="orthonormalization",
        kind="optimizer",
        summary="Muon on the rows or columns whose momentum is largest, the rest kept; AdamW on other parameters.",
        paper=_DION2,
        example={"learning_rate": 1e-2, "weight_decay": 0.0},
        grid=1e-2,
    ),
    Method(
        name="normuon",
        factory=normuon,
        family="orthonormalization",
        kind="optimizer",
        summary="Muon whose updates have rows of equal size; AdamW on other parameters.",
        paper=_NORMUON,
        example={"learning_rate": 1e-2, "weight_decay": 0.0},
        grid=2e-2,
        variants={"paper": Variant({"ema": True, "scale": "paper_rms"}, grid=3e-3)},
    ),
    Method(
        name="nordion2",
        factory=nordion2,
        family="orthonormalization",
        kind="optimizer",
        summary="Dion2 on rows, evened out as by NorMuon (Dion3); AdamW on other parameters.",
        paper=_DION2,
        example={"learning_rate": 1e-2, "weight_decay": 0.0},
        grid=1e-2,
    ),
)
