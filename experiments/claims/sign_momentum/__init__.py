"""Claims about signs and momentum, and the problems that they share: a network for digits, and least squares."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import digits, models
from experiments.tasks.digits_mlp import Perceptron
from optkit.comparison.statistics import Estimate

SEEDS = 8
NETWORK = "scikit-learn's digits, a perceptron with one hidden layer of 64"


class Digits(NamedTuple):
    """The network and its training data.

    Attributes:
        init: makes parameters from a key.
        loss: of parameters and rows of the training data.
        examples: how many rows there are.
    """

    init: Callable[[jax.Array], Any]
    loss: Callable[[Any, jax.Array], jax.Array]
    examples: int


def digits_network() -> Digits:
    """Returns the network for digits."""
    init, apply = models.functional(Perceptron)
    train = jax.tree.map(jnp.asarray, digits.load()["train"])

    def loss(params, rows):
        batch = jax.tree.map(lambda x: x[rows], train)
        return digits.loss(apply(params, batch["image"]), batch)

    return Digits(init, loss, len(train["label"]))


def batches(examples: int, size: int, steps: int) -> np.ndarray:
    """Draws the rows of all batches of all seeds, without repetition inside a batch: `(seed, step, row)`."""
    draws = np.random.default_rng(0).random((SEEDS, steps, examples))
    return np.argpartition(draws, size - 1, axis=-1)[..., :size]


def interval(found: Estimate) -> str:
    """Says a mean with its 95% interval."""
    return f"{found.mean:.3g} [{found.low:.3g}, {found.high:.3g}]"
