"""Claims about memory-efficient optimizers, and the student-teacher network that they are measured on."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

WIDTHS = (20, 32, 10)
EXAMPLES, BATCH_SIZE, STEPS, SEEDS = 512, 32, 600, 4
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
NETWORK = (
    f"A {'-'.join(map(str, WIDTHS))} tanh network learns another one, {EXAMPLES} examples in batches of {BATCH_SIZE},"
    f" {STEPS} steps with the rate falling linearly to zero, mean of {SEEDS} seeds at the best of {len(RATES)} rates"
)


def initial_weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draws a network."""
    inputs, hidden, outputs = WIDTHS
    weights = {
        "hidden": rng.standard_normal((inputs, hidden)) / inputs**0.5,
        "hidden_bias": np.zeros(hidden),
        "output": rng.standard_normal((hidden, outputs)) / hidden**0.5,
        "output_bias": np.zeros(outputs),
    }
    return {name: x.astype(np.float32) for name, x in weights.items()}


def predict(weights: dict[str, Any], features: Any) -> jax.Array:
    """Applies a network."""
    hidden = jnp.tanh(features @ weights["hidden"] + weights["hidden_bias"])
    return hidden @ weights["output"] + weights["output_bias"]


def loss(weights: Any, features: Any, targets: Any) -> jax.Array:
    """The mean squared error."""
    return jnp.mean((predict(weights, features) - targets) ** 2)


class Problem(NamedTuple):
    """What one seed draws: the student's first weights, features and targets of unit variance, and all batches."""

    weights: dict[str, np.ndarray]
    features: np.ndarray
    targets: np.ndarray
    batches: np.ndarray


def draw_problem(seed: int) -> Problem:
    """Draws teacher, student, data and batches."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((EXAMPLES, WIDTHS[0])).astype(np.float32)
    targets = np.asarray(predict(initial_weights(rng), features))
    batches = rng.integers(0, EXAMPLES, (STEPS, BATCH_SIZE))
    return Problem(initial_weights(rng), features, targets / np.std(targets), batches)


def final_loss(optimizer: Callable[..., optax.GradientTransformation], rate: jax.Array, problem: Any) -> jax.Array:
    """Trains and gives the loss over all examples at the end.

    Args:
        optimizer: builds it from a learning rate.
        rate: the learning rate at the start.
        problem: a `Problem`.

    Returns:
        The loss, in units of the targets' variance.
    """
    tx = optimizer(optax.linear_schedule(rate, 0.0, STEPS))

    def step(carry, batch):
        weights, state = carry
        grads = jax.grad(loss)(weights, problem.features[batch], problem.targets[batch])
        updates, state = tx.update(grads, state, weights)
        return (optax.apply_updates(weights, updates), state), None

    (weights, _), _ = jax.lax.scan(step, (problem.weights, tx.init(problem.weights)), problem.batches)
    return loss(weights, problem.features, problem.targets)


def best_loss(optimizer: Callable[..., optax.GradientTransformation]) -> tuple[float, float]:
    """Tunes the learning rate.

    Args:
        optimizer: builds it from a learning rate.

    Returns:
        The mean of the final losses at the best rate, and that rate.
    """
    problems = jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *map(draw_problem, range(SEEDS)))
    over_seeds = jax.vmap(lambda rate, problem: final_loss(optimizer, rate, problem), (None, 0))
    losses = jax.jit(jax.vmap(over_seeds, (0, None)))(jnp.asarray(RATES), problems)
    means = np.nan_to_num(np.mean(np.asarray(losses), axis=1), nan=np.inf)
    best = int(np.argmin(means))
    return float(means[best]), RATES[best]
