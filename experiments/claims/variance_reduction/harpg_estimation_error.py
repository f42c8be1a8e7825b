"""The momentum of HARPG is closer to the gradient than an exponential average of equal weight."""

import optkit
from experiments.claims import Claim
from experiments.claims.variance_reduction.storm_estimation_error import EXPERIMENT, REQUIRED_RATIO, WEIGHT, measure

CLAIM = Claim(
    method="harpg",
    arxiv="2302.01734",
    statement="The Hessian-corrected momentum has a smaller squared error than an exponential average of its weight.",
    experiment=EXPERIMENT,
    required=f"at least {REQUIRED_RATIO:g} times lower",
    measure=lambda: measure("HARPG", lambda: optkit.hessian_corrected_momentum(WEIGHT)),
)
