"""Handwritten digits, a perceptron with one hidden layer of 64."""

import jax
from flax import nnx

from experiments import digits, models
from experiments.tasks import Task


class Perceptron(nnx.Module):
    """One hidden layer."""

    def __init__(self, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(64, 64, rngs=rngs)
        self.output = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the logits."""
        return self.output(nnx.relu(self.hidden(images.reshape(images.shape[0], -1))))


def task() -> Task:
    """Returns the task."""
    init, apply = models.functional(Perceptron)
    splits = digits.load()
    return Task(
        **splits,
        init=init,
        loss=lambda params, batch: digits.loss(apply(params, batch["image"]), batch),
        metrics=lambda params, split: digits.metrics(apply(params, split["image"]), split),
        steps=1000,
        batch_size=64,
        facts=digits.facts(splits),
    )
