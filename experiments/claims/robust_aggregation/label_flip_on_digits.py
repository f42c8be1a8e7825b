"""The mean against robust rules when one worker's labels are flipped, on data that are alike and that are not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.experimental import aggregating

import optkit
from experiments import tasks
from experiments.claims import Claim, Finding
from experiments.claims.decentralized import difference

WORKERS, CLASSES, FLIPPING = 10, 10, 1
BATCH_SIZE, STEPS, MOMENTUM, SEEDS, RATES = 16, 300, 0.9, 8, (0.03, 0.1, 0.3, 1.0)
RULES = {
    "mean": aggregating.average_per_element_updates(),
    "trimmed mean": optkit.trimmed_mean(FLIPPING),
    "coordinate median": optkit.coordinate_median(),
    "Krum": optkit.krum(FLIPPING),
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


def accuracies(rule: aggregating.Aggregator, split: str) -> np.ndarray:
    """Trains with each rate and seed; gives the test accuracies of the seeds at the best rate on the validation set."""
    task = tasks.load("digits-mlp")
    labels = np.argmax(task.train["label"], axis=1)
    rows = shards(labels, split)
    # The last workers flip: in the split by classes, the one of the last class.
    flipped = np.array(optkit.attacks.label_flip(labels, CLASSES))
    own = np.where(np.isin(np.arange(len(labels)), rows[-FLIPPING:]), flipped, labels)
    train = task.train | {"label": np.eye(CLASSES, dtype=np.float32)[own]}

    def run(rate, key):
        decayed = optax.linear_schedule(rate, 0.0, STEPS)
        tx = optax.chain(rule, optax.sgd(decayed, momentum=MOMENTUM))
        init_key, batch_key = jax.random.split(key)

        def step(carry, key):
            params, state = carry
            drawn = jax.random.randint(key, (WORKERS, BATCH_SIZE), 0, rows.shape[1])
            chosen = jnp.take_along_axis(jnp.asarray(rows), drawn, axis=1)
            batches = jax.tree.map(lambda leaf: jnp.asarray(leaf)[chosen], train)
            grads = jax.vmap(jax.grad(task.loss), (None, 0))(params, batches)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        start = task.init(init_key)
        params = jax.lax.scan(step, (start, tx.init(start)), jax.random.split(batch_key, STEPS))[0][0]
        return tuple(jnp.mean(task.metrics(params, part)["accuracy"]) for part in (task.validation, task.test))

    over_seeds = jax.vmap(run, (None, 0))
    keys = jax.random.split(jax.random.key(0), SEEDS)
    validation, test = map(np.asarray, jax.jit(jax.vmap(over_seeds, (0, None)))(jnp.asarray(RATES), keys))
    return test[np.argmax(np.mean(validation, axis=1))]


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
