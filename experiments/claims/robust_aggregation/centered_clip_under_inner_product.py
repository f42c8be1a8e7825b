"""Centered clipping against medians when attackers send the mean of the others, reversed and small."""

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.robust_aggregation import EXPERIMENT, listed, steady_losses

BYZANTINE = 11
RULES = {
    "centered clipping": optkit.centered_clip,
    "coordinate median": lambda _: optkit.coordinate_median(),
    "RFA": lambda _: optkit.geometric_median(3, 0.1, tolerance=0, start="zeros"),
}


def measure():
    """Runs all rules with all momenta."""
    scores = {
        name: steady_losses(rule, optkit.attacks.inner_product_manipulation, BYZANTINE) for name, rule in RULES.items()
    }
    clipped = scores["centered clipping"]
    holds = all(other[i] > 10 * clipped[i] for other in (scores["coordinate median"], scores["RFA"]) for i in range(2))
    return Finding(f"loss by momentum: {listed(scores)}", holds)


CLAIM = Claim(
    method="centered_clip",
    arxiv="2012.10333",
    statement="Under inner product manipulation centered clipping reaches a far smaller loss than medians do.",
    experiment=f"{EXPERIMENT}; {BYZANTINE} of them send -0.1 times the others' mean.",
    required="with momentum 0 and 0.9, less than a tenth of the loss of the coordinate median and of RFA",
    measure=measure,
)
