"""Cautious AdamW against AdamW after as many steps."""

import functools

import numpy as np

from experiments import digits
from experiments.claims import Claim, Finding
from experiments.claims.sign_momentum import NETWORK
from experiments.claims.trainings import SEEDS, train
from experiments.tasks.digits_mlp import Perceptron
from optkit.catalog import METHODS
from optkit.comparison import statistics
from optkit.comparison.baselines import BASELINES

STEPS, BATCH_SIZE, FACTORS = 200, 64, (0.3, 1.0, 3.0, 10.0)


def measure() -> Finding:
    """Trains with both."""
    task = digits.task(Perceptron)
    losses, shown = {}, []
    for name, method in (("cautious_adamw", METHODS["cautious_adamw"]), ("adamw", BASELINES["adamw"])):
        rates = [method.grid * factor for factor in FACTORS]
        build = functools.partial(method.factory, weight_decay=0.0)
        best = train(task, build, rates, batch_size=BATCH_SIZE, steps=STEPS).at_best("loss", of_train=True)
        losses[name] = np.log(best.train["loss"])
        shown.append(f"{name} {np.exp(losses[name].mean()):.3g} (rate {best.setting:g})")
    lead = statistics.student(losses["cautious_adamw"] - losses["adamw"])
    low, high = np.exp((lead.low, lead.high))
    return Finding(f"{', '.join(shown)}: {np.exp(lead.mean):.2f} times ({low:.2f} to {high:.2f})", lead.high < 0)


CLAIM = Claim(
    method="cautious_adamw",
    arxiv="2411.16085",
    statement="One line of code improves training: cautious AdamW comes to a lower loss than AdamW in as many steps.",
    experiment=f"{NETWORK}, {STEPS} steps, batches of {BATCH_SIZE}, no weight decay, {SEEDS} seeds at the best of"
    f" {len(FACTORS)} rates: training loss.",
    required="a lower one (paired 95% interval)",
    measure=measure,
)
