"""VR-Adam against Adam on digits, from small batches to almost all examples at once.

Both come out the same, likely because the ratio multiplies a coordinate's gradient before both moments: where it
changes slowly, as its average over the steps does, Adam divides it out again.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import optax

import optkit
from experiments import tasks
from experiments.claims import Claim, Finding
from experiments.claims.trainings import DIGITS, SEEDS, train
from experiments.claims.variance_reduction import loss_difference
from optkit.comparison.gradients import MICROBATCHES
from optkit.comparison.task import examples
from optkit.method import Stacked

BATCH_SIZES, EPOCHS, RATES = (64, 256, 1024), 30, (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)

METHODS: tuple[tuple[Callable[..., Any], Stacked | None], ...] = (
    (optkit.vr_adam, "microbatches"),
    (optax.adam, None),
)


def measure() -> Finding:
    """Trains with both on batches of all sizes."""
    task = tasks.load(DIGITS)
    texts, holds = [], False
    for size in BATCH_SIZES:
        steps = math.ceil(EPOCHS * examples(task.train) / size)
        ours, theirs = (
            train(task, build, RATES, batch_size=size, steps=steps, stacked=stacked).at_best("loss")
            for build, stacked in METHODS
        )
        gaps = [np.subtract(scores.test["loss"], scores.train["loss"]) for scores in (ours, theirs)]
        of_gap, gap_text = loss_difference(*gaps)
        of_loss, loss_text = loss_difference(ours.test["loss"], theirs.test["loss"])
        texts.append(
            f"batch {size}: gap {np.mean(gaps[0]):.4f} against {np.mean(gaps[1]):.4f}, {gap_text}; test loss"
            f" {np.mean(ours.test['loss']):.4f}, {loss_text}"
        )
        holds = of_gap.high < 0 and of_loss.high < 0  # at the largest, which comes last
    return Finding("; ".join(texts), holds)


CLAIM = Claim(
    method="vr_adam",
    arxiv="2309.13681",
    statement="With large batches, VR-Adam generalizes better than Adam: a smaller gap between training and test loss,"
    " and a better model.",
    experiment=f"The digits perceptron, batches of {', '.join(map(str, BATCH_SIZES))} in {MICROBATCHES} parts,"
    f" {EPOCHS} epochs, {SEEDS} seeds, each at the best of {len(RATES)} rates from {RATES[0]:g} to {RATES[-1]:g}"
    " (warm-up and cosine) on the validation set: test loss less training loss at the end, and test loss.",
    required=f"with batches of {BATCH_SIZES[-1]}, a smaller gap and a lower test loss (paired 95% intervals); others"
    " reported",
    measure=measure,
)
