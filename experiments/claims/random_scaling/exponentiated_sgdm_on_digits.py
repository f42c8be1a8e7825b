"""SGD with momentum trains digits as well with steps of random length."""

import numpy as np
import optax

import optkit
from experiments import tasks
from experiments.claims import Claim, Finding
from experiments.claims.decentralized import difference
from experiments.claims.trainings import DIGITS, SEEDS, train

BATCH_SIZE, STEPS, MOMENTUM, RATES, WORSE = 16, 300, 0.9, (0.003, 0.01, 0.03, 0.1, 0.3), 0.01
METHODS = {
    "scaled": lambda rate: optkit.exponentiated_sgdm(rate, MOMENTUM, mu=0.0, key=0),
    "plain": lambda rate: optax.sgd(rate, MOMENTUM),
}


def measure() -> Finding:
    """Trains both with all learning rates."""
    task = tasks.load(DIGITS)
    ours, theirs = (
        train(task, build, RATES, batch_size=BATCH_SIZE, steps=STEPS).at_best("accuracy") for build in METHODS.values()
    )
    found, text = difference(ours.test["accuracy"], theirs.test["accuracy"])
    return Finding(
        f"test accuracy {np.mean(ours.test['accuracy']):.1%} (rate {ours.setting:g}) against"
        f" {np.mean(theirs.test['accuracy']):.1%} (rate {theirs.setting:g}): {text}",
        found.low > -WORSE,
    )


CLAIM = Claim(
    method="exponentiated_sgdm",
    arxiv="2405.09742",
    statement="Networks train as well by momentum whose steps have exponentially distributed lengths as by plain"
    " momentum.",
    experiment=f"The digits perceptron, {STEPS} batches of {BATCH_SIZE}, momentum {MOMENTUM}, mu 0, against SGD with"
    f" that momentum, {SEEDS} seeds, each at the best of {len(RATES)} rates from {RATES[0]:g} to {RATES[-1]:g} (warm-up"
    " and cosine) on the validation set; all seeds have the same random lengths.",
    required="a test accuracy at most 1 point lower (paired 95% interval)",
    measure=measure,
)
