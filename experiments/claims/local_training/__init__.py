"""Claims about local training, whose workers take several steps between two synchronizations.

Some of them are measured on digits that were dealt to workers evenly.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import tasks
from experiments.workers import split
from optkit.comparison import statistics


class Trained(NamedTuple):
    """How trainings end, by seed.

    Attributes:
        rate: the best learning rate by validation loss.
        test: the test losses at it.
        accuracy: the test accuracies at it.
    """

    rate: float
    test: np.ndarray
    accuracy: np.ndarray

    def __str__(self) -> str:
        """Returns the mean loss and the rate."""
        return f"{np.mean(self.test):.4f} (rate {self.rate:g})"


def on_digits(
    build: Callable[[Any], optax.GradientTransformation],
    rates: Sequence[float],
    *,
    workers: int,
    batch_size: int,
    steps: int,
    seeds: int,
    report: Callable[[Any, Any], Any] | None = None,
) -> Trained:
    """Trains the digits perceptron on workers that have equal parts of the examples.

    Args:
        build: makes a worker's optimizer from a learning rate.
        rates: from which the best one is taken, by validation loss.
        workers: their number.
        batch_size: examples in one worker's batch.
        steps: length of a training.
        seeds: the number of trainings at each rate.
        report: finds the parameters to report in a state, for example `optkit.co2_eval_params`; None for the workers'
            mean.

    Returns:
        What came out.
    """
    task, rows = tasks.load("digits-mlp"), []
    for seed in range(seeds):
        parts = split.deal(task, workers=workers, alpha=math.inf, least=batch_size, seed=seed)
        rows.append(split.batches(parts, batch_size=batch_size, steps=steps, seed=seed))

    def train(rate, seed, rows):
        tx = build(rate)

        def worker(rows):
            def step(carry, rows):
                params, state = carry
                batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], task.train)
                updates, state = tx.update(jax.grad(task.loss)(params, batch), state, params)
                return (optax.apply_updates(params, updates), state), None

            start = task.init(jax.random.key(seed))
            params, state = jax.lax.scan(step, (start, tx.init(start)), rows)[0]
            return jax.lax.pmean(params if report is None else report(state, params), "workers")

        params = jax.vmap(worker, axis_name="workers", out_axes=None)(rows)
        ends = [task.metrics(params, data) for data in (task.validation, task.test)]
        return [jnp.mean(x) for x in (ends[0]["loss"], ends[1]["loss"], ends[1]["accuracy"])]

    over_seeds = jax.vmap(train, (None, 0, 0))
    over_rates = jax.jit(jax.vmap(over_seeds, (0, None, None)))
    found = over_rates(jnp.asarray(rates), jnp.arange(seeds), jnp.asarray(np.stack(rows)))
    validation, test, accuracy = (np.asarray(x, float) for x in found)
    best = int(np.nanargmin(np.mean(validation, axis=1)))
    return Trained(rates[best], test[best], accuracy[best])


def ratio(ours: Trained, theirs: Trained) -> tuple[statistics.Estimate, str]:
    """Estimates the ratio of two test losses, paired by seed.

    Returns:
        The logarithm with its interval, and the ratio in words.
    """
    found = statistics.student(np.log(ours.test / theirs.test))
    mean, low, high = np.exp(found[:3])
    return found, f"{mean:.2f} times ({low:.2f} to {high:.2f})"
