"""The gradient noise scale against the batch size at which steps and examples to a loss are both twice their least."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments import tasks
from experiments.claims import Claim, Finding
from experiments.claims.trainings import DIGITS, SEEDS
from optkit.comparison import gradients
from optkit.comparison.task import examples

TARGET, WITHIN = 0.3, 3.0
RATES = (0.2, 0.4, 0.8, 1.6)
# The longest training by batch size; steps are counted to a hundredth of it.
LONGEST = {8: 2000, 32: 1000, 128: 500, 512: 200, 1024: 200}
EVALUATIONS, MEASURED_AT, DECAY = 100, 128, 0.99


class Runs(NamedTuple):
    """Steps to the loss, infinite if it is not reached, and the noise scale then, by rate and seed."""

    steps: Any
    noise_scale: Any


def runs(batch_size: int) -> Runs:
    """Trains with all rates and seeds."""
    task = tasks.load(DIGITS)
    between = LONGEST[batch_size] // EVALUATIONS

    def train(rate, seed):
        tx = optax.chain(optkit.gradient_noise_scale(batch_size // gradients.MICROBATCHES, DECAY), optax.sgd(rate))

        def step(carry, key):
            params, state = carry
            rows = jax.random.randint(key, (batch_size,), 0, examples(task.train))
            batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], task.train)
            grads = gradients.of_batch(task, "microbatches", params, None, batch, 1)[1]
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        def some_steps(carry, keys):
            params, state = jax.lax.scan(step, carry, keys)[0]
            return (params, state), (task.loss(params, task.train), optkit.read_noise_scale(state))

        init_key, batch_key = jax.random.split(jax.random.key(seed))
        start = task.init(init_key)
        keys = jax.random.split(batch_key, (EVALUATIONS, between))
        losses, noise_scales = jax.lax.scan(some_steps, (start, tx.init(start)), keys)[1]
        reached = losses <= TARGET
        first = jnp.argmax(reached)
        return Runs(jnp.where(jnp.any(reached), between * (1 + first), jnp.inf), noise_scales[first])

    over_seeds = jax.vmap(train, (None, 0))
    return Runs(*map(np.asarray, jax.jit(jax.vmap(over_seeds, (0, None)))(jnp.array(RATES), jnp.arange(SEEDS))))


def critical_batch_size(steps: np.ndarray) -> float:
    """Fits steps = least * (1 + critical / batch size), of which both sides are compared in logarithms."""
    sizes = np.array(list(LONGEST))
    candidates = np.geomspace(0.1, 10_000, 2001)
    excess = np.log(steps) - np.log1p(candidates[:, None] / sizes)
    return float(candidates[np.argmin(np.var(excess, axis=1))])


def measure() -> Finding:
    """Trains with all batch sizes, each at its best rate."""
    found = {size: runs(size) for size in LONGEST}
    best = {size: int(np.argmin(np.mean(of.steps, axis=1))) for size, of in found.items()}
    steps = np.array([np.mean(of.steps[best[size]]) for size, of in found.items()])
    critical = critical_batch_size(steps)
    measured = found[MEASURED_AT].noise_scale[best[MEASURED_AT]]
    predicted = float(np.exp(np.mean(np.log(measured))))

    def draw(axes):
        sizes = np.array(list(found))
        curve = np.geomspace(sizes[0], sizes[-1], 100)
        least = np.exp(np.mean(np.log(steps) - np.log1p(critical / sizes)))
        axes.loglog(sizes, steps, "o", label="measured")
        axes.loglog(curve, least * (1 + critical / curve), label="fit")
        axes.axvline(critical, color="C1", linestyle="--", label="critical batch size")
        axes.axvline(predicted, color="C2", linestyle="--", label="noise scale")
        axes.set(xlabel="batch size", ylabel=f"steps to a loss of {TARGET:g}")
        axes.legend()

    listed = ", ".join(
        f"{count:.0f} with {size} (rate {RATES[best[size]]:g})" for size, count in zip(found, steps, strict=True)
    )
    return Finding(
        f"noise scale {predicted:.0f} ({np.min(measured):.0f} to {np.max(measured):.0f} by seed), critical batch size"
        f" {critical:.0f}; steps: {listed}",
        1 / WITHIN <= predicted / critical <= WITHIN,
        draw,
    )


CLAIM = Claim(
    method="gradient_noise_scale",
    arxiv="1812.06162",
    statement="The noise scale predicts, to an order of magnitude, the largest useful batch size: that with which twice"
    " the fewest steps reach a loss.",
    experiment=f"The digits perceptron, SGD with batches of {', '.join(map(str, LONGEST))} drawn with replacement,"
    f" steps until the loss of all training examples is {TARGET:g}, mean of {SEEDS} seeds at the best of {len(RATES)}"
    f" rates from {RATES[0]:g} to {RATES[-1]:g}; the critical batch size is fitted to them, and the noise scale is read"
    f" when batches of {MEASURED_AT} reach the loss (decay {DECAY}, geometric mean of seeds).",
    required=f"within a factor of {WITHIN:g}",
    measure=measure,
)
