"""Krum and rules of coordinates against the mean when a third of the workers sends large random noise."""

from optax.experimental import aggregating

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.robust_aggregation import EXPERIMENT, listed, steady_losses

BYZANTINE, DEVIATION, MARGIN = 8, 200.0, 50
RULES = {
    "mean": lambda _: aggregating.average_per_element_updates(),
    "Krum": lambda _: optkit.krum(BYZANTINE),
    "coordinate median": lambda _: optkit.coordinate_median(),
    "trimmed mean": lambda _: optkit.trimmed_mean(BYZANTINE),
}


def attack(honest, key):
    """Sends noise of a large deviation."""
    return optkit.attacks.gaussian_noise(honest, DEVIATION, key)


def measure():
    """Runs all rules with all momenta."""
    scores = {name: steady_losses(rule, attack, BYZANTINE, key=0) for name, rule in RULES.items()}
    mean, *robust = scores.values()
    holds = all(MARGIN * own < plain for losses in robust for own, plain in zip(losses, mean, strict=True))
    return Finding(f"loss by momentum: {listed(scores)}", holds)


CLAIM = Claim(
    method="attacks.gaussian_noise",
    arxiv="1703.02757",
    statement="When a third of the workers sends large Gaussian noise, averaging does not converge, and robust rules"
    " do.",
    experiment=f"{EXPERIMENT}; {BYZANTINE} of them send noise of deviation {DEVIATION:g}.",
    required=f"with each momentum, each rule less than 1/{MARGIN} of the loss of the mean",
    measure=measure,
)
