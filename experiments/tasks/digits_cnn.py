"""Handwritten digits, a small convolutional network."""

import jax
import jax.numpy as jnp
from flax import nnx

from experiments import digits
from optkit.comparison.task import Task


class Convolution(nnx.Module):
    """A 3x3 convolution, written as a matrix product.

    `nnx.Conv` mapped over many kernels becomes a grouped convolution, for which XLA has no fast program on the CPU:
    18 replicas of this one train about ten times faster.
    """

    def __init__(self, features_in: int, features_out: int, stride: int, rngs: nnx.Rngs):
        self.kernel = nnx.Linear(9 * features_in, features_out, rngs=rngs)
        self.stride = stride

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the features, `(n, height, width, features_out)`."""
        height, width = images.shape[1:3]
        padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
        neighbours = [
            padded[:, row : row + height : self.stride, column : column + width : self.stride]
            for row in range(3)
            for column in range(3)
        ]
        return self.kernel(jnp.concatenate(neighbours, axis=-1))


class Network(nnx.Module):
    """Two convolutions, the second one with stride 2, and a linear layer."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = Convolution(1, 8, 1, rngs)
        self.second = Convolution(8, 16, 2, rngs)
        self.output = nnx.Linear(4 * 4 * 16, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the logits."""
        features = nnx.relu(self.second(nnx.relu(self.first(images[..., None]))))
        return self.output(features.reshape(features.shape[0], -1))


def task() -> Task:
    """Returns the task."""
    return digits.task(Network)
