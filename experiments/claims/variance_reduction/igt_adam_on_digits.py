"""Adam on transported gradients beside Adam on digits, in small batches."""

import numpy as np
import optax

import optkit
from experiments import tasks
from experiments.claims import Claim, Finding
from experiments.claims.trainings import DIGITS, SEEDS, dealt, train_on_workers
from experiments.claims.variance_reduction import loss_difference
from optkit.comparison import training

BATCH_SIZE, STEPS, RATES = 16, 300, (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


def losses(build, report=None):
    """Trains one worker with all rates; gives the test losses by seed at the best of them, and that rate."""
    task = tasks.load(DIGITS)
    shape = training.schedule(STEPS)
    rows = dealt(task, workers=1, alpha=1.0, batch_size=BATCH_SIZE, steps=STEPS)
    scores = train_on_workers(
        task, lambda rate: build(lambda count: rate * shape(count)), RATES, rows, report=report
    ).at_best("loss")
    return scores.test["loss"], float(scores.setting)


def measure() -> Finding:
    """Trains both with all learning rates."""
    ours, our_rate = losses(lambda rate: optkit.igt_adam(rate, averaging="ata"), optkit.igt_eval_params)
    theirs, their_rate = losses(optax.adam)
    found, text = loss_difference(ours, theirs)
    return Finding(
        f"test loss {np.mean(ours):.4f} (rate {our_rate:g}) against {np.mean(theirs):.4f} (rate {their_rate:g}):"
        f" {text}",
        found.high < 0,
    )


CLAIM = Claim(
    method="igt_adam",
    arxiv="1906.03532",
    statement="Adam on transported gradients trains a network to a lower loss than Adam in as many steps.",
    experiment=f"The digits perceptron, {STEPS} batches of {BATCH_SIZE}, tail averaging of half of the steps, {SEEDS}"
    f" seeds, each at the best of {len(RATES)} rates from {RATES[0]:g} to {RATES[-1]:g} (warm-up and cosine) on the"
    " validation set.",
    required="a lower test loss (paired 95% interval)",
    measure=measure,
)
