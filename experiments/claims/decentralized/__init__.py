"""Claims about decentralized training, and the digits dealt to workers that some of them are measured on."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optax

from experiments import tasks
from experiments.claims import trainings
from experiments.claims.trainings import DIGITS, Scores
from optkit.comparison import statistics

WORKERS, BATCH_SIZE = 8, 16


def train_on_digits(
    build: Callable[..., optax.GradientTransformation],
    settings: Sequence[Any],
    *,
    alpha: float,
    steps: int,
    consensus: bool = False,
) -> Scores:
    """Trains a perceptron on digits that were dealt to workers unevenly.

    Args:
        build: makes a worker's optimizer from a row of settings.
        settings: one row for each way to train.
        alpha: how evenly, see `split.deal`.
        steps: length of a training.
        consensus: whether to measure how far apart the workers' parameters are.

    Returns:
        The scores of the workers' mean by seed, with the settings of the best mean validation accuracy.
    """
    task = tasks.load(DIGITS)
    rows = trainings.dealt(task, workers=WORKERS, alpha=alpha, batch_size=BATCH_SIZE, steps=steps)
    return trainings.train_on_workers(task, build, settings, rows, consensus=consensus).at_best("accuracy")


def difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[statistics.Estimate, str]:
    """Estimates the paired difference of accuracies, and writes it in points."""
    found = statistics.student(np.asarray(ours, float) - np.asarray(theirs, float))
    return found, f"{100 * found.mean:+.2f} points ({100 * found.low:+.2f} to {100 * found.high:+.2f})"
