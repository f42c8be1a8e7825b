"""Handwritten digits, a perceptron with one hidden layer of 64."""

import jax
from flax import nnx

from experiments import digits
from optkit.comparison.task import Task


class Perceptron(nnx.Module):
    """One hidden layer."""

    def __init__(self, rngs: nnx.Rngs, classes: int = 10):
        self.hidden = nnx.Linear(64, 64, rngs=rngs)
        self.output = nnx.Linear(64, classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the logits."""
        return self.output(nnx.relu(self.hidden(images.reshape(images.shape[0], -1))))


def task() -> Task:
    """Returns the task."""
    return digits.task(Perceptron)
