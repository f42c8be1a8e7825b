"""The mean against robust rules when one worker's labels are flipped, on data that are alike and that are not."""

import dataclasses

import jax
import numpy as np
import optax

import optkit
from experiments import tasks
from experiments.claims import Claim, Finding
from experiments.claims.decentralized import difference
from experiments.claims.trainings import DIGITS, SEEDS, train_on_workers
from experiments.workers.split import batches

WORKERS, CLASSES, FLIPPING = 10, 10, 1
BATCH_SIZE, STEPS, MOMENTUM, RATES = 16, 300, 0.9, (0.03, 0.1, 0.3, 1.0)
RULES = {
    "mean": optax.stateless(lambda updates, _: jax.lax.pmean(updates, "workers")),
    "trimmed mean": optkit.trimmed_mean(FLIPPING, axis_name="workers"),
    "coordinate median": optkit.coordinate_median(axis_name="workers"),
    "Krum": optkit.krum(FLIPPING, axis_name="workers"),
}
SPLITS = ("one class a worker", "alike")


def shards(labels: np.ndarray, split: str) -> np.ndarray:
    """Splits the examples among the workers.

    Args:
        labels: the classes.
        split: one of `SPLITS`.

    Returns:
        The rows of each worker's examples, equally many; some examples are left out.
    """
    order = np.random.default_rng(0).permutation(len(labels))
    if split == "alike":
        parts = np.array_split(order, WORKERS)
    else:
        parts = [order[labels[order] == label] for label in range(CLASSES)]
    return np.stack([part[: min(map(len, parts))] for part in parts])


def accuracies(rule: optax.GradientTransformation, split: str) -> np.ndarray:
    """Trains with each rate and seed; gives the test accuracies of the seeds at the best rate on the validation set."""
    task = tasks.load(DIGITS)
    labels = np.argmax(task.train["label"], axis=1)
    rows = shards(labels, split)
    # The last workers flip: in the split by classes, the one of the last class.
    flipped = np.array(optkit.attacks.label_flip(labels, CLASSES))
    own = np.where(np.isin(np.arange(len(labels)), rows[-FLIPPING:]), flipped, labels)
    task = dataclasses.replace(task, train=task.train | {"label": np.eye(CLASSES, dtype=np.float32)[own]})

    def build(rate):
        return optax.chain(rule, optax.sgd(optax.linear_schedule(rate, 0.0, STEPS), momentum=MOMENTUM))

    orders = [batches(list(rows), batch_size=BATCH_SIZE, steps=STEPS, seed=seed) for seed in range(SEEDS)]
    return train_on_workers(task, build, RATES, np.stack(orders)).at_best("accuracy").test["accuracy"]


def measure() -> Finding:
    """Trains with all rules on both splits."""
    texts, found = [], []
    for split in SPLITS:
        mean, *robust = (accuracies(rule, split) for rule in RULES.values())
        gaps = [difference(mean, other) for other in robust]
        if split == SPLITS[0]:
            found = [estimate.low > 0 for estimate, _ in gaps]
        shown = [f"{name} {np.mean(values):.1%}" for name, values in zip(RULES, (mean, *robust), strict=True)]
        texts.append(f"{split}: {', '.join(shown)} (the mean's lead {', '.join(text for _, text in gaps)})")
    return Finding("test accuracy, " + "; ".join(texts), all(found))


CLAIM = Claim(
    method="attacks.label_flip",
    arxiv="2404.13647",
    statement="Where some workers' labels are wrong and the workers' data differ enough, the mean is more robust than"
    " robust rules.",
    experiment=f"The digits perceptron, {WORKERS} workers with batches of {BATCH_SIZE}, one of whom has flipped labels,"
    f" momentum {MOMENTUM}, {STEPS} steps with the rate falling linearly to zero, {SEEDS} seeds, each rule at the best"
    f" of {len(RATES)} rates from {RATES[0]:g} to {RATES[-1]:g} by validation accuracy; each worker with one class, or"
    " with data that are alike.",
    required="with one class a worker, a higher test accuracy of the mean than of each other rule (paired 95%"
    " intervals); alike, reported",
    measure=measure,
)
