"""DFedSAM against DFedAvgM, the same rounds without the ascent, on digits dealt unevenly.

Gradients after an ascent are longer, so that at the same rate workers go farther apart between two rounds.
"""

import itertools

import numpy as np

from experiments.claims import Claim, Finding
from experiments.claims.decentralized import WORKERS, difference, train_on_digits
from experiments.claims.trainings import SEEDS
from optkit.comparison import statistics
from optkit.decentralized import dfedsam
from optkit.decentralized.topology import ring

ALPHA, EVERY, STEPS = 0.3, 5, 400
RATES, ASCENTS = (0.01, 0.03, 0.1), (0.02, 0.1)


def build(rate, rho):
    """Makes DFedSAM; DFedAvgM is that without an ascent."""
    return dfedsam(rate, ring(WORKERS), EVERY, rho, axis_name="workers")


def measure() -> Finding:
    """Trains both with all learning rates."""
    ours, theirs = (
        train_on_digits(build, list(itertools.product(RATES, ascents)), alpha=ALPHA, steps=STEPS, consensus=True)
        for ascents in (ASCENTS, (0.0,))
    )
    accuracies = ours.test["accuracy"], theirs.test["accuracy"]
    found, text = difference(*accuracies)
    apart = statistics.student(np.log(ours.consensus / theirs.consensus))
    return Finding(
        f"test accuracy {np.mean(accuracies[0]):.1%} against {np.mean(accuracies[1]):.1%}: {text}; workers"
        f" {np.exp(apart.mean):.2f} times as far apart ({np.exp(apart.low):.2f} to {np.exp(apart.high):.2f})",
        found.low > 0 and apart.high < 0,
    )


CLAIM = Claim(
    method="dfedsam",
    arxiv="2302.04083",
    statement="Where data are dealt unevenly, sharpness-aware local steps give a better model than decentralized"
    " federated averaging (DFedAvgM), and workers that are more alike.",
    experiment=f"The digits perceptron, {WORKERS} workers on a ring, classes dealt by a Dirichlet distribution of"
    f" {ALPHA}, {STEPS} steps, rounds of {EVERY}, momentum 0.9, {SEEDS} seeds, each at the best of the rates"
    f" {', '.join(map(str, RATES))} (and rho {', '.join(map(str, ASCENTS))}) on the validation set: the workers' mean.",
    required="a higher test accuracy, and a smaller distance of the workers from their mean (paired 95% intervals)",
    measure=measure,
)
