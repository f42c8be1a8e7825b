"""Claims about memory-efficient optimizers, the student-teacher network and the LLaMA shapes they are measured on."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import tasks
from experiments.claims import trainings
from experiments.claims.trainings import DIGITS, Scores
from optkit.comparison import statistics

WIDTHS = (20, 32, 10)
EXAMPLES, BATCH_SIZE, STEPS, SEEDS = 512, 32, 600, 4
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
LEARNS = (
    f"A {'-'.join(map(str, WIDTHS))} tanh network learns another one, {EXAMPLES} examples in batches of {BATCH_SIZE}"
)


def network(seeds: int) -> str:
    """Describes what is trained on the student-teacher network, for how long, and how it is tuned."""
    return (
        f"{LEARNS}, {STEPS} steps with the rate falling linearly to zero, mean of {seeds} seeds at the best of"
        f" {len(RATES)} rates"
    )


NETWORK = network(SEEDS)
DIGITS_RATES, DIGITS_STEPS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1), 500
ON_DIGITS = (
    f"A digits perceptron, {DIGITS_STEPS} steps with the rate falling linearly to zero, {trainings.SEEDS} seeds at the"
    f" best of {len(DIGITS_RATES)} rates by validation accuracy"
)
# A point is three or four of the 360 test digits.
POINTS_LOST = 0.01


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


def final_loss(
    optimizer: Callable[..., optax.GradientTransformation], rate: jax.Array, problem: Any, steps: int = STEPS
) -> jax.Array:
    """Trains and gives the loss over all examples at the end.

    Args:
        optimizer: builds it from a learning rate.
        rate: the learning rate at the start.
        problem: a `Problem`.
        steps: length of the training, at most `STEPS`.

    Returns:
        The loss, in units of the targets' variance.
    """
    tx = optimizer(optax.linear_schedule(rate, 0.0, steps))

    def step(carry, batch):
        weights, state = carry
        grads = jax.grad(loss)(weights, problem.features[batch], problem.targets[batch])
        updates, state = tx.update(grads, state, weights)
        return (optax.apply_updates(weights, updates), state), None

    (weights, _), _ = jax.lax.scan(step, (problem.weights, tx.init(problem.weights)), problem.batches[:steps])
    return loss(weights, problem.features, problem.targets)


class Tuned(NamedTuple):
    """What came out at the best learning rate: the final loss for each seed, and the rate."""

    losses: np.ndarray
    rate: float


def tuned(optimizer: Callable[..., optax.GradientTransformation], *, seeds: int = SEEDS, steps: int = STEPS) -> Tuned:
    """Tunes the learning rate.

    Args:
        optimizer: builds it from a learning rate.
        seeds: how many problems.
        steps: length of a training, at most `STEPS`.

    Returns:
        The final losses at the rate with the least mean.
    """
    problems = jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *map(draw_problem, range(seeds)))
    over_seeds = jax.vmap(lambda rate, problem: final_loss(optimizer, rate, problem, steps), (None, 0))
    losses = np.asarray(jax.jit(jax.vmap(over_seeds, (0, None)))(jnp.asarray(RATES), problems))
    best = int(np.argmin(np.nan_to_num(np.mean(losses, axis=1), nan=np.inf)))
    return Tuned(losses[best], RATES[best])


def best_loss(optimizer: Callable[..., optax.GradientTransformation]) -> tuple[float, float]:
    """Tunes the learning rate.

    Args:
        optimizer: builds it from a learning rate.

    Returns:
        The mean of the final losses at the best rate, and that rate.
    """
    found = tuned(optimizer)
    return float(np.mean(found.losses)), found.rate


def ratio(ours: np.ndarray, theirs: np.ndarray) -> tuple[statistics.Estimate, str]:
    """Estimates by how many times losses from the same seeds differ, and writes it.

    Args:
        ours: a loss for each seed.
        theirs: as `ours`.

    Returns:
        The geometric mean of the ratios with its interval, and both in words.
    """
    found = statistics.student(np.log(np.asarray(ours, float) / np.asarray(theirs, float)))
    mean, low, high = np.exp(found[:3])
    return found._replace(mean=mean, low=low, high=high), f"{mean:.2f} times ({low:.2f} to {high:.2f})"


def tuned_on_digits(
    optimizer: Callable[..., optax.GradientTransformation], *, name: str = DIGITS, steps: int = DIGITS_STEPS
) -> Scores:
    """Trains a perceptron on digits at several learning rates, which fall linearly to zero.

    Args:
        optimizer: builds it from a learning rate.
        name: of the task.
        steps: length of a training.

    Returns:
        The scores by seed at the rate with the best mean validation accuracy.
    """
    task, falling = tasks.load(name), optax.linear_schedule(1.0, 0.0, steps)
    scores = trainings.train(task, optimizer, DIGITS_RATES, batch_size=task.batch_size, steps=steps, schedule=falling)
    return scores.at_best("accuracy")


def compare_on_digits(ours: Scores, theirs: Scores, names: tuple[str, str]) -> tuple[statistics.Estimate, str]:
    """Estimates the paired difference of test accuracies, and writes it with what it is made of."""
    found = statistics.student(ours.test["accuracy"] - theirs.test["accuracy"])
    shown = ", ".join(
        f"{name} {np.mean(runs.test['accuracy']):.1%} (training loss {np.mean(runs.train['loss']):.2g}, rate"
        f" {runs.setting:g})"
        for name, runs in zip(names, (ours, theirs), strict=True)
    )
    return found, f"{shown}: {100 * found.mean:+.2f} points ({100 * found.low:+.2f} to {100 * found.high:+.2f})"


# Hidden and feed-forward widths and layers of GaLore's LLaMA configurations, on which the papers count.
LLAMA = {"60M": (512, 1376, 8), "130M": (768, 2048, 12), "350M": (1024, 2736, 24), "1B": (2048, 5461, 24)}
VOCABULARY = 32_000


def llama(size: str, dtype: Any = jnp.float32) -> dict[str, Any]:
    """Gives the shapes of a LLaMA's parameters.

    Args:
        size: one of `LLAMA`.
        dtype: of the parameters.

    Returns:
        `embedding`, `layers`, `norm` and `head`, without any data.
    """
    hidden, wide, layers = LLAMA[size]

    def shaped(*shape):
        return jax.ShapeDtypeStruct(shape, dtype)

    def layer():
        attention = {name: shaped(hidden, hidden) for name in ("query", "key", "value", "out")}
        feed_forward = {"gate": shaped(hidden, wide), "up": shaped(hidden, wide), "down": shaped(wide, hidden)}
        return attention | feed_forward | {"attention_norm": shaped(hidden), "feed_forward_norm": shaped(hidden)}

    return {
        "embedding": shaped(VOCABULARY, hidden),
        "layers": [layer() for _ in range(layers)],
        "norm": shaped(hidden),
        "head": shaped(hidden, VOCABULARY),
    }


def matrices_of_layers(params: dict[str, Any], *, head: bool = False) -> dict[str, Any]:
    """Marks the matrices of a `llama` that the papers save state on.

    Args:
        params: as `llama` gives them.
        head: whether the last layer is one of them.

    Returns:
        The tree of booleans.
    """
    marked = jax.tree.map(lambda leaf: leaf.ndim == 2, params)
    return marked | {"embedding": False, "head": head}


def bytes_of_vectors(params: dict[str, Any], leaves: dict[str, Any], rank: int) -> int:
    """Counts the singular vectors that are kept, on the shorter side of each marked matrix, in float32."""
    matrices = [leaf for leaf, marked in zip(*map(jax.tree.leaves, (params, leaves)), strict=True) if marked]
    return sum(4 * rank * min(matrix.shape) for matrix in matrices)
