"""Claims about orthonormalized updates, and what those about language models and about digits share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments import digits, models
from optkit.catalog import METHODS
from optkit.comparison.baselines import BASELINES

# Times the centre of a method's grid of learning rates.
SEEDS, STEPS, FACTORS = 8, 100, (3.0, 10.0, 30.0, 100.0)
ON_DIGITS = (
    f"A digits perceptron with two hidden layers, {STEPS} steps with the rate falling linearly to zero, {SEEDS} seeds"
    f" at the best of {len(FACTORS)} rates; Dion or Muon on hidden matrices, Adam on the last layer and biases"
)


def beside_adamw(
    method: str,
    scale: optax.GradientTransformation,
    learning_rate: float | jax.Array,
    hidden_matrices: Callable[[Any], Any],
) -> optax.GradientTransformation:
    """Gives hidden matrices to a method for matrices, and embeddings, the last layer, biases and scales to AdamW.

    One learning rate serves both: AdamW's is as many times the method's as the centre of its grid is that of the
    method's.

    Args:
        method: the method's name in the catalog.
        scale: what makes its updates, up to the learning rate.
        learning_rate: of the hidden matrices.
        hidden_matrices: as a task has it.

    Returns:
        The optimizer.
    """

    def labels(params):
        return jax.tree.map(
            lambda _, numbers: "others" if numbers is None else "matrices", params, hidden_matrices(params)
        )

    adamw = BASELINES["adamw"]
    others = adamw.factory(learning_rate * (adamw.grid / METHODS[method].grid), weight_decay=0.0)
    matrices = optax.chain(scale, optax.scale_by_learning_rate(learning_rate))
    return optax.partition({"matrices": matrices, "others": others}, labels)


class Perceptron(nnx.Module):
    """Two hidden layers of one width."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.first = nnx.Linear(64, width, rngs=rngs)
        self.second = nnx.Linear(width, width, rngs=rngs)
        self.output = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the logits."""
        hidden = nnx.relu(self.first(images.reshape(images.shape[0], -1)))
        return self.output(nnx.relu(self.second(hidden)))


class OnDigits(NamedTuple):
    """What came out at the best learning rate.

    Attributes:
        logarithms: of the loss on all training digits at the end, for each seed.
        rate: the learning rate.
    """

    logarithms: np.ndarray
    rate: float


def best_on_digits(
    method: str, scale: Callable[..., optax.GradientTransformation] | None, *, width: int, batch_size: int
) -> OnDigits:
    """Trains a perceptron on digits at several learning rates.

    Args:
        method: the method's name in the catalog, or "adamw".
        scale: makes what makes updates of hidden matrices, given their dimension numbers; None for Adam everywhere.
        width: of both hidden layers.
        batch_size: how many digits a step sees.

    Returns:
        What came out at the rate with the least mean loss.
    """
    task = digits.task(lambda rngs: Perceptron(width, rngs))
    grid = (BASELINES if scale is None else METHODS)[method].grid

    def optimizer(rate):
        decay = optax.scale_by_schedule(optax.linear_schedule(1.0, 0.0, STEPS))
        if scale is None:
            return optax.chain(optax.adam(rate), decay)
        inner = scale(weight_dimension_numbers=models.hidden_matrices)
        return optax.chain(beside_adamw(method, inner, rate, models.hidden_matrices), decay)

    def train(rate, key):
        tx = optimizer(rate)
        init_key, batch_key = jax.random.split(key)

        def step(carry, key):
            params, state = carry
            rows = jax.random.choice(key, len(task.train["label"]), (batch_size,))
            batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], task.train)
            updates, state = tx.update(jax.grad(task.loss)(params, batch), state, params)
            return (optax.apply_updates(params, updates), state), None

        start = task.init(init_key)
        params = jax.lax.scan(step, (start, tx.init(start)), jax.random.split(batch_key, STEPS))[0][0]
        return task.loss(params, task.train)

    over_seeds = jax.vmap(train, (None, 0))
    over_rates = jax.jit(jax.vmap(over_seeds, (0, None)))
    rates = grid * np.asarray(FACTORS)
    losses = np.asarray(over_rates(jnp.asarray(rates), jax.random.split(jax.random.key(0), SEEDS)))
    best = int(np.argmin(np.nan_to_num(np.mean(losses, axis=1), nan=np.inf)))
    return OnDigits(np.log(losses[best]), float(rates[best]))


def figures(found: OnDigits) -> str:
    """Writes the geometric mean of the losses, and the rate."""
    return f"{np.exp(found.logarithms.mean()):.2g} (rate {found.rate:g})"
