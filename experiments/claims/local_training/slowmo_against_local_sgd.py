"""SlowMo, whose synchronizations take a step along a slow momentum, against local SGD."""

from typing import Any

import optax

import optkit
from experiments.claims import Claim
from experiments.claims.local_training import lower_loss
from experiments.claims.local_training.diloco_outer_momentum import EVERY, SIZED, schedule, trained, tuned

RATES = (0.03, 0.1, 0.3, 1.0, 3.0)


def slowmo(rate: Any) -> optax.GradientTransformation:
    """Makes SlowMo with the default slow momentum."""
    return optkit.slowmo(schedule(rate), EVERY, axis_name="workers")


def local_sgd(rate: Any) -> optax.GradientTransformation:
    """Makes local SGD that synchronizes as often."""
    return optkit.local_sgd(schedule(rate), EVERY, axis_name="workers")


CLAIM = Claim(
    method="slowmo",
    arxiv="1910.00643",
    statement="A slow momentum over the steps that workers agree on gives a better model than local SGD, with the same"
    " communication.",
    experiment=f"{SIZED} of SGD with warm-up and cosine decay, a synchronization every {EVERY} steps; a slow momentum"
    f" of 0.5 against the plain mean; {tuned(RATES)}.",
    required="a lower test loss (paired 95% interval)",
    measure=lambda: lower_loss(trained(slowmo, RATES), trained(local_sgd, RATES)),
)
