"""Decentralized Adam on a ring against Adam on the mean of all workers' gradients, on digits dealt evenly."""

import jax
import numpy as np
import optax

from experiments.claims import Claim, Finding
from experiments.claims.decentralized import WORKERS, difference, train_on_digits
from experiments.claims.trainings import SEEDS
from optkit.decentralized import dadam
from optkit.decentralized.topology import ring

STEPS, RATES, MARGIN = 300, (1e-3, 3e-3, 1e-2), 0.01


def central(rate):
    """Makes Adam on the mean of all gradients."""
    mean = optax.stateless(lambda updates, _: jax.lax.pmean(updates, "workers"))
    return optax.chain(mean, optax.adam(rate))


def measure() -> Finding:
    """Trains both with all learning rates."""
    ours, theirs = (
        train_on_digits(build, RATES, alpha=np.inf, steps=STEPS).test["accuracy"]
        for build in (lambda rate: dadam(rate, ring(WORKERS), axis_name="workers"), central)
    )
    found, text = difference(ours, theirs)
    return Finding(f"test accuracy {np.mean(ours):.1%} against {np.mean(theirs):.1%}: {text}", found.low > -MARGIN)


CLAIM = Claim(
    method="dadam",
    arxiv="1901.09109",
    statement="Where data are dealt evenly, Adam on each worker with exchanges between neighbours does as well as"
    " centralized Adam.",
    experiment=f"The digits perceptron, {WORKERS} workers on a ring with equal parts of the examples, {STEPS} steps,"
    f" {SEEDS} seeds, each at the best of the rates {', '.join(f'{rate:g}' for rate in RATES)} on the validation set:"
    " the workers' mean.",
    required=f"a test accuracy at most {100 * MARGIN:g} point lower (paired 95% interval)",
    measure=measure,
)
