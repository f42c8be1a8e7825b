"""RelaySGD against decentralized SGD on a path of workers whose digits are dealt unevenly."""

import numpy as np
import optax

from experiments.claims import Claim, Finding
from experiments.claims.decentralized import WORKERS, difference, train_on_digits
from experiments.claims.trainings import SEEDS
from optkit.decentralized import gossip, relay_sum
from optkit.decentralized.topology import path

ALPHA, STEPS, RATES = 0.1, 400, (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


def relayed(rate):
    """Makes RelaySGD."""
    return relay_sum(optax.sgd(rate), path(WORKERS), axis_name="workers")


def mixed(rate):
    """Makes decentralized SGD."""
    return gossip(optax.sgd(rate), path(WORKERS), axis_name="workers")


def measure() -> Finding:
    """Trains both with all learning rates."""
    ours, theirs = (train_on_digits(build, RATES, alpha=ALPHA, steps=STEPS) for build in (relayed, mixed))
    found, text = difference(ours.test["accuracy"], theirs.test["accuracy"])
    return Finding(
        f"test accuracy {np.mean(ours.test['accuracy']):.1%} (rate {ours.setting:g}) against"
        f" {np.mean(theirs.test['accuracy']):.1%} (rate {theirs.setting:g}): {text}",
        found.low > 0,
    )


CLAIM = Claim(
    method="relay_sum",
    arxiv="2110.04175",
    statement="Where data are dealt unevenly to workers on a sparse graph, RelaySGD gives a better model than"
    " decentralized SGD.",
    experiment=f"The digits perceptron, {WORKERS} workers on a path, classes dealt by a Dirichlet distribution of"
    f" {ALPHA}, {STEPS} steps, no momentum, {SEEDS} seeds, each at the best of the rates"
    f" {', '.join(map(str, RATES))} on the validation set: the workers' mean.",
    required="a higher test accuracy (paired 95% interval)",
    measure=measure,
)
