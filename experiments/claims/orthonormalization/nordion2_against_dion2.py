"""NorDion2 against Dion2."""

import functools

import numpy as np

from experiments.claims import Claim, Finding
from experiments.claims.orthonormalization import ON_DIGITS, best_on_digits, figures, log_losses
from experiments.claims.orthonormalization.dion2_against_muon import BATCH_SIZE, WIDTH
from optkit.comparison import statistics
from optkit.orthonormalization import scale_by_dion2, scale_by_nordion2

FRACTION = 1 / 4


def measure() -> Finding:
    """Trains with both."""
    nordion2, dion2 = (
        best_on_digits(name, functools.partial(scale, FRACTION), width=WIDTH, batch_size=BATCH_SIZE)
        for name, scale in (("nordion2", scale_by_nordion2), ("dion2", scale_by_dion2))
    )
    lead = statistics.student(log_losses(nordion2) - log_losses(dion2))
    return Finding(
        f"NorDion2 {figures(nordion2)}, Dion2 {figures(dion2)}: {np.exp(lead.mean):.2f} times", lead.high < 0
    )


CLAIM = Claim(
    method="nordion2",
    arxiv="2512.16928",
    statement="Rows of equal size make Dion2 more efficient: after as many steps the loss is lower.",
    experiment=f"{ON_DIGITS}; NorDion2 or Dion2 on a quarter of the rows in the place of Dion, width {WIDTH}, batches"
    f" of {BATCH_SIZE}: training loss.",
    required="NorDion2's loss is less than Dion2's (paired 95% interval)",
    measure=measure,
)
