"""Claims about decentralized training, and the digits dealt to workers that some of them are measured on."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import tasks
from experiments.workers import split
from optkit.comparison import statistics
from optkit.decentralized import consensus_distance

DIGITS, SEEDS, WORKERS, BATCH_SIZE = "digits-mlp", 8, 8, 16


class Scores(NamedTuple):
    """How workers end, for each build and seed.

    Attributes:
        validation: accuracy of the workers' mean, by which the learning rate is chosen.
        test: accuracy of the workers' mean.
        consensus: the root mean square distance of the workers from their mean.
    """

    validation: Any
    test: Any
    consensus: Any

    def at_best(self) -> "Scores":
        """Takes the settings with the best mean validation accuracy: the scores by seed."""
        best = int(np.argmax(np.mean(self.validation, axis=1)))
        return Scores(*(np.asarray(x)[best] for x in self))


def train_on_digits(
    build: Callable[..., optax.GradientTransformation], settings: np.ndarray, *, alpha: float, steps: int
) -> Scores:
    """Trains a perceptron on digits that were dealt to workers unevenly.

    Args:
        build: makes a worker's optimizer from a row of settings.
        settings: one row for each way to train.
        alpha: how evenly, see `split.deal`.
        steps: length of a training.

    Returns:
        The scores, with axes over settings and seeds.
    """
    task = tasks.load(DIGITS)
    rows = []
    for seed in range(SEEDS):
        parts = split.deal(task, workers=WORKERS, alpha=alpha, least=BATCH_SIZE, seed=seed)
        rows.append(split.batches(parts, batch_size=BATCH_SIZE, steps=steps, seed=seed))

    def train(setting, seed, rows):
        tx = optax.with_extra_args_support(build(*setting))

        def worker(rows):
            def step(carry, rows):
                params, state = carry
                batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], task.train)

                def grad_fn(params):
                    return jax.grad(task.loss)(params, batch)

                updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
                return (optax.apply_updates(params, updates), state), None

            start = task.init(jax.random.key(seed))
            params = jax.lax.scan(step, (start, tx.init(start)), rows)[0][0]
            return jax.lax.pmean(params, "workers"), consensus_distance(params, "workers")

        mean, distance = jax.vmap(worker, axis_name="workers", out_axes=None)(rows)
        validation, test = (jnp.mean(task.metrics(mean, data)["accuracy"]) for data in (task.validation, task.test))
        return Scores(validation, test, distance)

    over_seeds = jax.vmap(train, (None, 0, 0))
    over_settings = jax.jit(jax.vmap(over_seeds, (0, None, None)))
    return over_settings(jnp.asarray(settings), jnp.arange(SEEDS), jnp.asarray(np.stack(rows)))


def difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[statistics.Estimate, str]:
    """Estimates the paired difference of accuracies, and writes it in points."""
    found = statistics.student(np.asarray(ours, float) - np.asarray(theirs, float))
    return found, f"{100 * found.mean:+.2f} points ({100 * found.low:+.2f} to {100 * found.high:+.2f})"
