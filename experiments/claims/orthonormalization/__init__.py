"""Claims about orthonormalized updates, and what those about language models and about digits share."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from experiments import digits, models
from experiments.claims.trainings import SEEDS, Scores, train
from optkit.catalog import METHODS
from optkit.comparison.baselines import BASELINES

# Times the centre of a method's grid of learning rates.
STEPS, FACTORS = 100, (3.0, 10.0, 30.0, 100.0)
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


def best_on_digits(
    method: str, scale: Callable[..., optax.GradientTransformation] | None, *, width: int, batch_size: int
) -> Scores:
    """Trains a perceptron on digits at several learning rates, which fall linearly to zero.

    Args:
        method: the method's name in the catalog, or "adamw".
        scale: makes what makes updates of hidden matrices, given their dimension numbers; None for Adam everywhere.
        width: of both hidden layers.
        batch_size: how many digits a step sees.

    Returns:
        The scores by seed at the rate with the least mean training loss.
    """
    task = digits.task(lambda rngs: Perceptron(width, rngs))
    grid = (BASELINES if scale is None else METHODS)[method].grid

    def build(rate):
        if scale is None:
            return optax.adam(rate)
        inner = scale(weight_dimension_numbers=models.hidden_matrices)
        # Updates are proportional to the rate, so that one for both methods can come last.
        return optax.chain(beside_adamw(method, inner, 1.0, models.hidden_matrices), optax.scale_by_schedule(rate))

    rates, falling = [grid * factor for factor in FACTORS], optax.linear_schedule(1.0, 0.0, STEPS)
    scores = train(task, build, rates, batch_size=batch_size, steps=STEPS, schedule=falling)
    return scores.at_best("loss", of_train=True)


def log_losses(found: Scores) -> np.ndarray:
    """Returns the logarithms of the training losses by seed."""
    return np.log(found.train["loss"])


def figures(found: Scores) -> str:
    """Writes the geometric mean of the training losses, and the rate."""
    return f"{np.exp(np.mean(log_losses(found))):.2g} (rate {found.setting:g})"
