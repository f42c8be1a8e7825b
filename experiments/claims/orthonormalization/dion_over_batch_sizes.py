"""Dion against Adam and Muon over batch sizes."""

import functools

import numpy as np

from experiments.claims import Claim, Finding
from experiments.claims.orthonormalization import ON_DIGITS, best_on_digits, figures, log_losses
from optkit.comparison import statistics
from optkit.orthonormalization import scale_by_dion, scale_by_muon

WIDTH, FRACTION, BATCH_SIZES = 32, 1 / 4, (16, 64, 256)


def measure() -> Finding:
    """Trains with all batch sizes."""
    optimizers = {
        "Dion": ("dion", functools.partial(scale_by_dion, FRACTION)),
        "Muon": ("muon", scale_by_muon),
        "Adam": ("adamw", None),
    }
    found = {
        name: [best_on_digits(*optimizer, width=WIDTH, batch_size=size) for size in BATCH_SIZES]
        for name, optimizer in optimizers.items()
    }
    leads = [log_losses(ours) - log_losses(theirs) for ours, theirs in zip(found["Dion"], found["Adam"], strict=True)]
    change = statistics.student(leads[-1] - leads[0])
    shown = "; ".join(
        f"batches of {size}: " + ", ".join(f"{name} {figures(runs[i])}" for name, runs in found.items())
        for i, size in enumerate(BATCH_SIZES)
    )
    low_end, high_end = np.exp((change.low, change.high))
    return Finding(
        f"{shown}; from the least batch to the largest Dion's loss over Adam's times {np.exp(change.mean):.2f}"
        f" ({low_end:.2f} to {high_end:.2f})",
        change.high < 0,
    )


CLAIM = Claim(
    method="dion",
    arxiv="2504.05295",
    statement="The larger the batch, the larger is Dion's lead over Adam.",
    experiment=f"{ON_DIGITS}; width {WIDTH}, Dion at a rank of a quarter, batches of"
    f" {', '.join(map(str, BATCH_SIZES))}: training loss.",
    required=f"Dion's loss over Adam's is less with batches of {BATCH_SIZES[-1]} than of {BATCH_SIZES[0]} (paired 95%"
    " interval)",
    measure=measure,
)
