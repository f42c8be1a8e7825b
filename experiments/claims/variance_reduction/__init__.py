"""Claims about variance reduction, and how those of MARS train on digits."""

from collections.abc import Callable

import numpy as np
import optax

from experiments import tasks
from experiments.claims import Finding
from experiments.claims.trainings import DIGITS, SEEDS, train
from optkit.comparison import statistics

# How MARS and AdamW are tuned alike; AdamW's decay rates are those of the baseline in MARS's paper.
MARS_RATES, MARS_BATCH_SIZE, MARS_STEPS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1), 16, 300
MARS_EXPERIMENT = (
    f"The digits perceptron, {MARS_STEPS} batches of {MARS_BATCH_SIZE}, approximate and clipped as by default, against"
    f" AdamW with b2 = 0.95, both without weight decay, {SEEDS} seeds, each at the best of {len(MARS_RATES)} rates from"
    f" {MARS_RATES[0]:g} to {MARS_RATES[-1]:g} (warm-up and cosine) on the validation set; no language model, which"
    " would take hours with so many seeds."
)
MARS_REQUIRED = "a lower test loss (paired 95% interval)"


def loss_difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[statistics.Estimate, str]:
    """Estimates the paired difference of losses, and writes it."""
    found = statistics.student(np.asarray(ours, float) - np.asarray(theirs, float))
    return found, f"{found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f})"


def against_adamw(build: Callable[..., optax.GradientTransformation]) -> Finding:
    """Compares a form of MARS with AdamW.

    Args:
        build: makes it from a schedule of the learning rate.

    Returns:
        The test losses; they hold if the form's is lower.
    """
    task = tasks.load(DIGITS)

    def losses(build):
        scores = train(task, build, MARS_RATES, batch_size=MARS_BATCH_SIZE, steps=MARS_STEPS)
        return scores.at_best("loss").test["loss"]

    ours, theirs = losses(build), losses(lambda rate: optax.adamw(rate, b2=0.95, weight_decay=0.0))
    found, text = loss_difference(ours, theirs)
    return Finding(f"test loss {np.mean(ours):.4f} against {np.mean(theirs):.4f}: {text}", found.high < 0)
