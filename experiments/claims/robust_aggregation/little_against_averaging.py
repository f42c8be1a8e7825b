"""Averaging, medians and centered clipping when attackers hide in the noise."""

from optax.experimental import aggregating

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.robust_aggregation import EXPERIMENT, listed, steady_losses

BYZANTINE, DEVIATIONS = 5, 1.5
RULES = {
    "mean": lambda _: aggregating.average_per_element_updates(),
    "centered clipping": optkit.centered_clip,
    "coordinate median": lambda _: optkit.coordinate_median(),
    "RFA": lambda _: optkit.geometric_median(3, 0.1, tolerance=0, start="zeros"),
    "Krum": lambda _: optkit.krum(BYZANTINE),
}


def attack(honest):
    """Sends the mean less some deviations."""
    return optkit.attacks.a_little_is_enough(honest, DEVIATIONS)


def measure():
    """Runs all rules with all momenta."""
    scores = {name: steady_losses(rule, attack, BYZANTINE) for name, rule in RULES.items()}
    return Finding(f"loss by momentum: {listed(scores)}", None)


CLAIM = Claim(
    method="centered_clip",
    arxiv="2012.10333",
    statement="Under attacks that hide in the noise (ALIE) all rules gain by momentum on the workers.",
    experiment=f"{EXPERIMENT}; {BYZANTINE} of them send the others' mean less {DEVIATIONS} deviations.",
    required="reported as found",
    measure=measure,
)
