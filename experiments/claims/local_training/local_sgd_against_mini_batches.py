"""Local SGD, with a mean of the parameters every few steps, against SGD with a mean in each step."""

from typing import Any

import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.local_training import loss_at_most
from experiments.claims.local_training.diloco_outer_momentum import SIZED, schedule, trained, tuned

EVERY, RATES, MARGIN = 8, (0.03, 0.1, 0.3, 1.0, 3.0), 1.05


def local(rate: Any) -> optax.GradientTransformation:
    """Makes local SGD with rounds of several steps."""
    return optkit.local_sgd(schedule(rate), EVERY, axis_name="workers")


def synchronous(rate: Any) -> optax.GradientTransformation:
    """Makes SGD with a mean in each step."""
    return optkit.local_sgd(schedule(rate), 1, axis_name="workers")


def measure() -> Finding:
    """Trains with both."""
    return loss_at_most(MARGIN, trained(local, RATES), trained(synchronous, RATES))


CLAIM = Claim(
    method="local_sgd",
    arxiv="1805.09767",
    statement=f"Local SGD is as good as SGD with a mean in each step, with 1/{EVERY} of the communication.",
    experiment=f"{SIZED} of SGD with warm-up and cosine decay; parameters averaged every {EVERY} steps against every"
    f" step; {tuned(RATES)}.",
    required=f"at most {MARGIN:g} times the test loss",
    measure=measure,
)
