"""Handwritten digits 5 to 9, ten training images of each, by a perceptron that was trained on the digits 0 to 4.

The perceptron, with one hidden layer of 64, is trained on all images of 0 to 4 when the task is loaded, to the same
numbers every time. Its hidden layer is where every seed starts, with an output layer of its own. The reference figure
is the accuracy of a classifier that has nothing to train, the nearest of the same 50 images: 0.972 of the test images.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from experiments import digits
from experiments.tasks.digits_mlp import Perceptron
from optkit.comparison.task import SPLITS, Task

PRETRAINED, TUNED = range(5), range(5, 10)
PRETRAINING_STEPS = 300
EXAMPLES_OF_EACH = 10
REFERENCE = 0.972


def task() -> Task:
    """Returns the task."""
    everything = digits.task(build)
    splits = {name: only(getattr(everything, name), TUNED) for name in SPLITS}
    labels = splits["train"]["label"].argmax(axis=1)
    rows = np.concatenate([np.flatnonzero(labels == label)[:EXAMPLES_OF_EACH] for label in range(len(TUNED))])
    splits["train"] = jax.tree.map(lambda leaf: leaf[rows], splits["train"])
    hidden = pretrain(everything)["hidden"]
    return dataclasses.replace(
        everything,
        **splits,
        init=lambda key: {**everything.init(key), "hidden": hidden},
        steps=300,
        batch_size=16,
        facts={
            "data": "scikit-learn digits: 5 to 9, tuned from a network for 0 to 4",
            "examples": {name: len(part["label"]) for name, part in splits.items()},
            "reference": {"accuracy": REFERENCE},
        },
        classes=len(TUNED),
    )


def build(rngs: nnx.Rngs) -> Perceptron:
    """Makes the network, with an output for each of five digits."""
    return Perceptron(rngs, classes=len(TUNED))


def only(split: Any, chosen: Sequence[int]) -> Any:
    """Returns a split's images of some digits, which are its only classes."""
    rows = split["label"][:, chosen].any(axis=1)
    return {"image": split["image"][rows], "label": split["label"][rows][:, chosen]}


def pretrain(everything: Task) -> Any:
    """Trains the network on the digits 0 to 4, all training images in every step.

    Args:
        everything: the task whose images these are.

    Returns:
        Its parameters.
    """
    images = only(everything.train, PRETRAINED)
    tx = optax.adam(1e-2)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(everything.loss)(params, images), state)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def train(key):
        params = everything.init(key)
        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=PRETRAINING_STEPS)
        return params

    return jax.device_get(train(jax.random.key(0)))
