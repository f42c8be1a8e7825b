"""SGD along a robust aggregate of momenta or of gradients on digits, under attackers that hide in the noise."""

import numpy as np
import optax
from optax.experimental import aggregating

import optkit
from experiments import tasks
from experiments.claims import Claim, Finding
from experiments.claims.decentralized import difference
from experiments.claims.trainings import DIGITS, SEEDS, dealt, train_on_workers
from optkit.comparison import training

WORKERS, BYZANTINE, DEVIATIONS, DECAY = 10, 3, 1.5, 0.9
ALPHA, BATCH_SIZE, STEPS, RATES = 100.0, 8, 300, (0.03, 0.1, 0.3, 1.0, 3.0)


def attack(honest):
    """Sends the mean less some deviations."""
    return optkit.attacks.a_little_is_enough(honest, DEVIATIONS)


def accuracies(b1):
    """Trains with all rates; gives the test accuracies by seed at the best of them, and that rate."""
    task = tasks.load(DIGITS)
    shape = training.schedule(STEPS)
    attacked = aggregating.Aggregator(
        *optax.chain(
            optkit.attacks.under_attack(attack, BYZANTINE, axis_name="workers"),
            optkit.coordinate_median(axis_name="workers"),
        )
    )
    rows = dealt(task, workers=WORKERS, alpha=ALPHA, batch_size=BATCH_SIZE, steps=STEPS)
    scores = train_on_workers(
        task, lambda rate: optkit.robust_sgd(lambda count: rate * shape(count), attacked, b1), RATES, rows
    ).at_best("accuracy")
    return scores.test["accuracy"], float(scores.setting)


def measure() -> Finding:
    """Trains with momentum on the workers and without."""
    with_momentum, rate = accuracies(DECAY)
    without, plain_rate = accuracies(None)
    found, text = difference(with_momentum, without)
    return Finding(
        f"test accuracy {np.mean(with_momentum):.1%} (rate {rate:g}) against {np.mean(without):.1%} (rate"
        f" {plain_rate:g}): {text}",
        found.low > 0,
    )


CLAIM = Claim(
    method="robust_sgd",
    arxiv="2012.10333",
    statement="Under attackers that hide in the noise (ALIE), a robust aggregate of workers' momenta trains a better"
    " model than one of their gradients.",
    experiment=f"The digits perceptron, {WORKERS} workers with batches of {BATCH_SIZE} of data that are nearly alike,"
    f" {BYZANTINE} of whom send the others' mean less {DEVIATIONS} deviations, the coordinate median, momentum"
    f" {DECAY} or none, {STEPS} steps, {SEEDS} seeds, each at the best of {len(RATES)} rates from {RATES[0]:g} to"
    f" {RATES[-1]:g} (warm-up and cosine) by validation accuracy.",
    required="a higher test accuracy with momentum (paired 95% interval)",
    measure=measure,
)
