"""What Dion loses by a low rank, over the width of a network.

It fails: from the least width to the largest, what the low rank costs does not fall. With batches that were drawn with
replacement it did, from width to width, but by less than eight seeds can tell from nothing: to 0.72 times (0.50 to
1.03).
"""

import functools

import numpy as np

from experiments.claims import Claim, Finding
from experiments.claims.orthonormalization import ON_DIGITS, best_on_digits, figures, log_losses
from optkit.comparison import statistics
from optkit.orthonormalization import scale_by_dion

WIDTHS, FRACTION, BATCH_SIZE = (16, 32, 64), 1 / 8, 64


def measure() -> Finding:
    """Trains at all widths, at the low rank and at the full one."""

    def best(fraction, width):
        return best_on_digits("dion", functools.partial(scale_by_dion, fraction), width=width, batch_size=BATCH_SIZE)

    low, full = ([best(fraction, width) for width in WIDTHS] for fraction in (FRACTION, 1.0))
    lost = [log_losses(a) - log_losses(b) for a, b in zip(low, full, strict=True)]
    change = statistics.student(lost[-1] - lost[0])
    shown = ", ".join(
        f"{np.exp(lost[i].mean()):.2f} at width {width} ({figures(low[i])} against {figures(full[i])})"
        for i, width in enumerate(WIDTHS)
    )
    low_end, high_end = np.exp((change.low, change.high))
    return Finding(
        f"loss at rank {FRACTION:g} over that at full rank {shown}; from the least width to the largest times"
        f" {np.exp(change.mean):.2f} ({low_end:.2f} to {high_end:.2f})",
        change.high < 0,
    )


CLAIM = Claim(
    method="dion",
    arxiv="2504.05295",
    statement="The larger the model, the less Dion loses by a low rank.",
    experiment=f"{ON_DIGITS}; widths {', '.join(map(str, WIDTHS))}, ranks of an eighth and all of the shorter side,"
    f" batches of {BATCH_SIZE}: training loss.",
    required=f"what the low rank multiplies the loss by is less at width {WIDTHS[-1]} than at {WIDTHS[0]} (paired 95%"
    " interval)",
    measure=measure,
)
