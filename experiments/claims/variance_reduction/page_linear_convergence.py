"""PAGE converges at a constant rate where stochastic gradient descent stops at its noise."""

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
    method="page",
    arxiv="2008.10898",
    statement="PAGE converges linearly at a constant learning rate where gradients dominate the loss; SGD does not.",
    experiment=f"{EXPERIMENT}; a full gradient with probability 0.01.",
    required=f"loss above the minimum: at most {REQUIRED:g}, and SGD's at least {REQUIRED_OF_SGD:g}",
    measure=lambda: measure("PAGE", lambda: optkit.page(RATE, probability=0.01)),
)
