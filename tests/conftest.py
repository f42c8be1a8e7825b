"""A task that trains in no time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optkit.comparison.task import Task


@pytest.fixture
def line() -> Task:
    """Linear regression on 20 points."""
    random = np.random.default_rng(0)
    inputs = random.normal(size=(40, 3)).astype(np.float32)
    data = {"x": inputs, "y": inputs @ np.float32([1.0, -2.0, 0.5])}

    def loss(params, batch):
        return jnp.mean((batch["x"] @ params - batch["y"]) ** 2)

    return Task(
        train=jax.tree.map(lambda a: a[:20], data),
        validation=jax.tree.map(lambda a: a[20:30], data),
        test=jax.tree.map(lambda a: a[30:], data),
        init=lambda key: jax.random.normal(key, (3,)),
        loss=loss,
        metrics=lambda params, split: {"loss": (split["x"] @ params - split["y"]) ** 2},
        steps=30,
        batch_size=8,
        facts={},
    )
