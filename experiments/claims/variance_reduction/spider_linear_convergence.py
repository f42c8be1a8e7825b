"""SpiderBoost converges at a constant rate where stochastic gradient descent stops at its noise."""

import optkit
from experiments.claims import Claim
from experiments.claims.variance_reduction.svrg_linear_convergence import (
    EXPERIMENT,
    RATE,
    REQUIRED,
    REQUIRED_OF_SGD,
    measure,
)

CLAIM = Claim(
    method="spider_boost",
    arxiv="1810.10690",
    statement="SpiderBoost converges at a constant learning rate to where the gradient is zero; SGD does not.",
    experiment=f"{EXPERIMENT}; a full gradient every 100 steps.",
    required=f"loss above the minimum: at most {REQUIRED:g}, and SGD's at least {REQUIRED_OF_SGD:g}",
    measure=lambda: measure("SpiderBoost", lambda: optkit.spider_boost(RATE, anchor_every=100)),
)
