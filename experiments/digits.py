"""The handwritten digits that two tasks train on, and how they are scored."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn import datasets, model_selection

from experiments import models
from optkit.comparison.task import Task


def load() -> dict[str, Any]:
    """Returns scikit-learn's 1,797 digits, split 60/20/20 with every class equally frequent in all three.

    Images are `(n, 8, 8)` in [0, 1]; labels are one-hot, which spares the gradient a scatter.
    """
    images, labels = datasets.load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 8, 8)
    train, rest = model_selection.train_test_split(
        np.arange(len(labels)), test_size=720, stratify=labels, random_state=0
    )
    validation, test = model_selection.train_test_split(rest, test_size=360, stratify=labels[rest], random_state=0)
    parts = {"train": train, "validation": validation, "test": test}
    return {
        name: {"image": images[rows], "label": np.eye(10, dtype=np.float32)[labels[rows]]}
        for name, rows in parts.items()
    }


def loss(logits: jax.Array, batch: Any) -> jax.Array:
    """Returns the mean cross-entropy, in nats."""
    return optax.softmax_cross_entropy(logits, batch["label"]).mean()


def metrics(logits: jax.Array, batch: Any) -> dict[str, jax.Array]:
    """Returns cross-entropy and accuracy of each example."""
    hits = logits.argmax(axis=-1) == batch["label"].argmax(axis=-1)
    return {"loss": optax.softmax_cross_entropy(logits, batch["label"]), "accuracy": hits.astype(jnp.float32)}


def task(build: Callable[[nnx.Rngs], Any]) -> Task:
    """Returns the task of training a module that gives the logits of images.

    Args:
        build: makes the module from random number generators.
    """
    init, apply = models.functional(build)
    splits = load()
    return Task(
        **splits,
        init=init,
        loss=lambda params, batch: loss(apply(params, batch["image"]), batch),
        metrics=lambda params, split: metrics(apply(params, split["image"]), split),
        steps=1000,
        batch_size=64,
        facts={"data": "scikit-learn digits", "examples": {name: len(part["label"]) for name, part in splits.items()}},
        labels=lambda batch: batch["label"].argmax(axis=-1),
        classes=10,
        hidden_matrices=models.hidden_matrices,
    )
