"""Momentum of the displacements of mixed parameters against local momentum, on digits dealt unevenly.

On a task as easy as this one, local momentum at its best rate loses nothing that could be won back.
"""

import numpy as np
import optax

from experiments.claims import Claim, Finding
from experiments.claims.decentralized import WORKERS, difference, train_on_digits
from experiments.claims.trainings import SEEDS
from optkit.decentralized import gossip, qg_dsgdm
from optkit.decentralized.topology import ring

ALPHA, STEPS, MOMENTUM, RATES = 0.1, 400, 0.9, (0.01, 0.03, 0.1, 0.3)


def quasi_global(rate):
    """Makes QG-DSGDm with Nesterov's momentum."""
    return qg_dsgdm(rate, ring(WORKERS), MOMENTUM, axis_name="workers")


def local(rate):
    """Makes decentralized SGD with Nesterov's momentum on each worker."""
    return gossip(optax.sgd(rate, MOMENTUM, nesterov=True), ring(WORKERS), axis_name="workers")


def measure() -> Finding:
    """Trains both with all learning rates."""
    ours, theirs = (
        train_on_digits(build, RATES, alpha=ALPHA, steps=STEPS).test["accuracy"] for build in (quasi_global, local)
    )
    found, text = difference(ours, theirs)
    return Finding(f"test accuracy {np.mean(ours):.1%} against {np.mean(theirs):.1%}: {text}", found.low > 0)


CLAIM = Claim(
    method="qg_dsgdm",
    arxiv="2102.04761",
    statement="Where data are dealt unevenly, quasi-global momentum gives a better model than local momentum.",
    experiment=f"The digits perceptron, {WORKERS} workers on a ring, classes dealt by a Dirichlet distribution of"
    f" {ALPHA}, {STEPS} steps, momentum {MOMENTUM}, {SEEDS} seeds, each at the best of the rates"
    f" {', '.join(map(str, RATES))} on the validation set: the workers' mean.",
    required="a higher test accuracy (paired 95% interval)",
    measure=measure,
)
