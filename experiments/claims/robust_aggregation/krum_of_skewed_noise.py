"""The bias of Krum under skewed noise, without attackers, and how momentum on the workers takes it away."""

from optax.experimental import aggregating

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.median_clipping.median_of_skewed_noise import CLAIM as MEDIANS
from experiments.claims.median_clipping.median_of_skewed_noise import DECAYS, steady_loss

BYZANTINE = 5


def measure():
    """Runs Krum and the mean with both momenta."""
    krum, mean = (
        [steady_loss(rule, decay) for decay in DECAYS]
        for rule in (optkit.krum(BYZANTINE), aggregating.average_per_element_updates())
    )
    return Finding(
        f"loss without momentum and with: Krum {krum[0]:.2g} and {krum[1]:.2g}, mean {mean[0]:.2g} and {mean[1]:.2g}",
        krum[0] > 100 * mean[0] and 0.5 * mean[1] < krum[1] < 2 * mean[1],
    )


CLAIM = Claim(
    method="krum",
    arxiv="2012.10333",
    statement="Krum converges to another point than the minimum under skewed noise, unless the workers average their "
    "gradients over time first.",
    experiment=f"Krum for {BYZANTINE} attackers, of whom there is none: {MEDIANS.experiment}",
    required=MEDIANS.required,
    measure=measure,
)
