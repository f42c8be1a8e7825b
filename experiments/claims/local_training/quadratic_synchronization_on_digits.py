"""QSR, whose rounds become longer as the learning rate decays, against rounds of equal length."""

from typing import Any

import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.local_training import figures, on_digits, ratio
from experiments.claims.trainings import Scores

WORKERS, BATCH_SIZE, STEPS, SEEDS, MOMENTUM, RATES = 4, 4, 4096, 6, 0.9, (0.01, 0.03, 0.1)
BASE, ALPHA, EVERY = 4, 2.545, 16
SHAPE = optax.cosine_decay_schedule(1.0, STEPS)
# The rule sees only the ratio of alpha to the rate, so that the same rounds go with all peaks.
RULE = optkit.quadratic_synchronization(SHAPE, ALPHA, BASE, total_steps=STEPS)


def rounds() -> int:
    """Counts the synchronizations under the rule."""
    count = number = 0
    while count < STEPS:
        count, number = count + int(RULE(count)), number + 1
    return number


def trained(every: Any) -> Scores:
    """Trains with rounds of some length."""

    def build(rate):
        return optkit.local_sgd(lambda count: rate * SHAPE(count), every, MOMENTUM, axis_name="workers")

    return on_digits(build, RATES, workers=WORKERS, batch_size=BATCH_SIZE, steps=STEPS, seeds=SEEDS)


def measure() -> Finding:
    """Trains with both."""
    ours, theirs = trained(RULE), trained(EVERY)
    found, shown = ratio(ours, theirs)
    number = rounds()
    return Finding(
        f"test loss {figures(ours)} against {figures(theirs)}, {shown}; test accuracy"
        f" {np.mean(ours.test['accuracy']):.2%} against {np.mean(theirs.test['accuracy']):.2%};"
        f" {number} synchronizations against {STEPS // EVERY}",
        bool(found.high < 0 and number <= STEPS // EVERY),
    )


CLAIM = Claim(
    method="quadratic_synchronization",
    arxiv="2310.14423",
    statement="Rounds whose length follows the quadratic rule give a better model than as many rounds of equal length.",
    experiment=f"The digits perceptron, {WORKERS} workers with equal parts of the examples, batches of {BATCH_SIZE},"
    f" {STEPS} steps of SGD with momentum {MOMENTUM} and cosine decay; the rule with base {BASE} and alpha {ALPHA}"
    f" times the peak rate against a synchronization every {EVERY} steps; each at the best of the peak rates"
    f" {', '.join(map(str, RATES))} by validation loss, {SEEDS} seeds.",
    required="a lower test loss (paired 95% interval) with no more synchronizations",
    measure=measure,
)
