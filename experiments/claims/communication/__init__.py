"""Claims about compressed communication, with the quadratics, digits and bytes that they are measured on."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments import tasks
from experiments.claims.decentralized import SEEDS, Scores, train_on_digits
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


def on_digits(build: Callable[[Any], optax.GradientTransformation], rates: tuple[float, ...] = RATES) -> Scores:
    """Trains a perceptron on digits that were dealt to workers evenly.

    Args:
        build: makes a worker's optimizer from a learning rate.
        rates: from which the best one is taken.

    Returns:
        The scores by seed at the best rate.
    """
    settings = np.array(rates)[:, None]
    return train_on_digits(build, settings, alpha=math.inf, steps=DIGITS_STEPS).at_best()


class Losses(NamedTuple):
    """How trainings of a language model end.

    Attributes:
        rate: the best learning rate.
        test: the test losses at it, by seed.
    """

    rate: float
    test: np.ndarray


def on_bytes(
    build: Callable[[Any], optax.GradientTransformation], rates: tuple[float, ...], *, workers: int, seeds: int
) -> Losses:
    """Trains the small language model on workers that share each batch.

    Args:
        build: makes a worker's optimizer from a learning rate.
        rates: from which the best one is taken, by validation loss.
        workers: their number.
        seeds: the number of trainings at each rate.

    Returns:
        What came out.
    """
    task = tasks.load("bytes-lm-small")
    size = task.batch_size // workers

    def train(rate, seed, rows):
        tx = build(rate)

        def worker(rows):
            def step(carry, rows):
                params, state = carry
                batch = jax.tree.map(lambda x: jnp.asarray(x)[rows], task.train)
                updates, state = tx.update(jax.grad(task.loss)(params, batch), state, params)
                return (optax.apply_updates(params, updates), state), None

            start = task.init(jax.random.key(seed))
            return jax.lax.pmean(jax.lax.scan(step, (start, tx.init(start)), rows)[0][0], "workers")

        params = jax.vmap(worker, axis_name="workers", out_axes=None)(rows)
        return [jnp.mean(task.metrics(params, split)["loss"]) for split in (task.validation, task.test)]

    program = jax.jit(train)
    found = np.array(
        [[program(rate, seed, _rows(task, workers, size, seed)) for seed in range(seeds)] for rate in rates]
    )
    best = int(np.nanargmin(found[..., 0].mean(axis=1)))
    return Losses(rates[best], found[best, :, 1])


def _rows(task: Any, workers: int, size: int, seed: int) -> np.ndarray:
    """Deals the rows of each batch to the workers."""
    order = batch_order(len(jax.tree.leaves(task.train)[0]), workers * size, task.steps, seed)
    return np.moveaxis(order.reshape(task.steps, workers, size), 1, 0)
