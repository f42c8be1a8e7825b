"""What momentum on the workers does for rules like the median under attack."""

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.robust_aggregation import EXPERIMENT, listed, steady_losses

BYZANTINE = 11
RULES = {
    "coordinate median": lambda _: optkit.coordinate_median(),
    "RFA": lambda _: optkit.geometric_median(3, 0.1, tolerance=0, start="zeros"),
    "Krum": lambda _: optkit.krum(BYZANTINE),
}


def measure():
    """Runs all rules with all momenta."""
    scores = {
        name: steady_losses(rule, optkit.attacks.inner_product_manipulation, BYZANTINE) for name, rule in RULES.items()
    }
    return Finding(f"loss by momentum: {listed(scores)}", all(x[0] > 50 * x[-1] for x in scores.values()))


CLAIM = Claim(
    method="krum",
    arxiv="2012.10333",
    statement="Momentum on the workers makes rules like the median withstand inner product manipulation.",
    experiment=f"{EXPERIMENT}; {BYZANTINE} of them send -0.1 times the others' mean.",
    required="for each rule, with momentum 0.99 less than a fiftieth of the loss without",
    measure=measure,
)
