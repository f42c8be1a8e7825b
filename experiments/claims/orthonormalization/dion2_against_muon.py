"""Dion2 on a quarter or half of the rows against Muon on all of them."""

import functools

import numpy as np

from experiments.claims import Claim, Finding
from experiments.claims.orthonormalization import ON_DIGITS, best_on_digits, figures, log_losses
from optkit.orthonormalization import scale_by_dion2, scale_by_muon

WIDTH, BATCH_SIZE, FRACTIONS, REQUIRED = 32, 64, (1 / 4, 1 / 2), 1.5


def measure() -> Finding:
    """Trains with both fractions, and with Muon."""
    muon = best_on_digits("muon", scale_by_muon, width=WIDTH, batch_size=BATCH_SIZE)
    parts = [
        best_on_digits("dion2", functools.partial(scale_by_dion2, fraction), width=WIDTH, batch_size=BATCH_SIZE)
        for fraction in FRACTIONS
    ]
    ratios = [float(np.exp(np.mean(log_losses(part) - log_losses(muon)))) for part in parts]
    shown = ", ".join(
        f"{fraction:g} of the rows {figures(part)}, {ratio:.2f} times"
        for fraction, part, ratio in zip(FRACTIONS, parts, ratios, strict=True)
    )
    return Finding(f"Muon {figures(muon)}; {shown}", max(ratios) <= REQUIRED)


CLAIM = Claim(
    method="dion2",
    arxiv="2512.16928",
    statement="To orthonormalize a quarter or half of the rows in a step is about as good as Muon.",
    experiment=f"{ON_DIGITS}; Dion2 in the place of Dion, width {WIDTH}, batches of {BATCH_SIZE}: training loss.",
    required=f"losses at most {REQUIRED} times Muon's at both fractions",
    measure=measure,
)
