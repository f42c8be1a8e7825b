"""Claims about compressed communication, with the quadratics, digits and bytes that they are measured on."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments import tasks
from experiments.claims.decentralized import train_on_digits
from experiments.claims.trainings import SEEDS, Scores, train_on_workers
from optkit.comparison.task import examples
from optkit.comparison.training import batch_order
from optkit.typing import Feedback

WORKERS, DIMENSION, DENSITY, STATED = 10, 50, 0.1, "spectrum from 0.1 to 1, linear parts drawn from N(0, 9)"


def squared_gradients(
    rule: Feedback | None, *, rate: float, steps: int, noise: float, density: float = DENSITY, seed: int = 0
) -> np.ndarray:
    """Descends on quadratics that differ between workers, by means of their largest entries.

    Args:
        rule: the feedback; None sends gradients as they are, not compressed.
        rate: the learning rate.
        steps: their number.
        noise: standard deviation of the noise in each entry of a gradient.
        density: share of the entries that are sent.
        seed: of the quadratics and the noise.

    Returns:
        The squared norm of the gradient of the mean of all quadratics, before every step.
    """
    random = np.random.default_rng(seed)
    bases, _ = np.linalg.qr(random.standard_normal((WORKERS, DIMENSION, DIMENSION)))
    curvature = np.geomspace(0.1, 1, DIMENSION)
    hessians = jnp.asarray((bases * curvature) @ bases.mT)
    slopes = jnp.asarray(3 * random.standard_normal((WORKERS, DIMENSION)))
    compressor = optkit.compressors.identity() if rule is None else optkit.compressors.top_k(density)
    tx = optax.chain(optkit.compressed_mean(compressor, rule, axis_name="workers"), optax.sgd(rate))

    def worker(hessian, slope, key):
        def step(carry, key):
            x, state = carry
            gradient = hessian @ x - slope
            norm = jnp.sum(jax.lax.pmean(gradient, "workers") ** 2)
            updates, state = tx.update(gradient + noise * jax.random.normal(key, x.shape), state)
            return (optax.apply_updates(x, updates), state), norm

        start = jnp.zeros(DIMENSION)
        return jax.lax.scan(step, (start, tx.init(start)), jax.random.split(key, steps))[1]

    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(seed), WORKERS)
        return np.asarray(over_workers(worker)(hessians, slopes, keys))


def over_workers(worker: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles what each worker does, whose result is equal on all."""
    return jax.jit(jax.vmap(worker, axis_name="workers", out_axes=None))


DIGITS_STEPS, RATES = 600, (0.025, 0.05, 0.1, 0.2, 0.4)


def described(rates: tuple[float, ...] = RATES) -> str:
    """Says how `on_digits` trains."""
    return (
        f"Digits dealt evenly to 8 workers, batches of 16, {DIGITS_STEPS} steps, momentum 0.9; the best of the rates"
        f" {', '.join(map(str, rates))} by validation accuracy, {SEEDS} seeds"
    )


def on_digits(build: Callable[[Any], optax.GradientTransformation], rates: tuple[float, ...] = RATES) -> np.ndarray:
    """Trains a perceptron on digits that were dealt to workers evenly.

    Args:
        build: makes a worker's optimizer from a learning rate.
        rates: from which the best one is taken.

    Returns:
        The test accuracies by seed at the best rate.
    """
    return train_on_digits(build, rates, alpha=math.inf, steps=DIGITS_STEPS).test["accuracy"]


def on_bytes(
    build: Callable[[Any], optax.GradientTransformation], rates: tuple[float, ...], *, workers: int, seeds: int
) -> Scores:
    """Trains the small language model on workers that share each batch.

    Args:
        build: makes a worker's optimizer from a learning rate.
        rates: from which the best one is taken, by validation loss.
        workers: their number.
        seeds: the number of trainings at each rate.

    Returns:
        The scores by seed at the best rate.
    """
    task = tasks.load("bytes-lm-small")
    orders = [batch_order(examples(task.train), task.batch_size, task.steps, seed) for seed in range(seeds)]
    # The batch's rows are dealt to the workers.
    rows = np.moveaxis(np.reshape(orders, (seeds, task.steps, workers, -1)), 2, 1)
    return train_on_workers(task, build, rates, rows).at_best("loss")
