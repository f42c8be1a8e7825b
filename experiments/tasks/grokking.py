"""Addition modulo 47, learned from half of all sums by a network that generalizes after it has memorized.

Gromov, "Grokking modular arithmetic", 2023, arXiv:2301.02679: one hidden layer with the square as its activation, no
biases, the squared error of one-hot answers, and no regularization. Larger initial weights generalize later.

The reference figure is the paper's: an accuracy of 1 on the sums that were left out. Weights in closed form attain it.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import models
from optkit.comparison.task import SPLITS, Task

MODULUS = 47
WIDTH = 128
INITIAL_SCALE = 0.4


def task() -> Task:
    """Returns the task."""
    first, second = map(np.ravel, np.indices((MODULUS, MODULUS)))
    one_hot = np.eye(MODULUS, dtype=np.float32)
    sums = {
        "terms": np.concatenate([one_hot[first], one_hot[second]], axis=1),
        "sum": one_hot[(first + second) % MODULUS],
    }
    rows = np.random.default_rng(0).permutation(MODULUS**2)
    parts = np.split(rows, len(rows) * np.array([2, 3]) // 4)
    train, validation, test = ({name: leaf[part] for name, leaf in sums.items()} for part in parts)

    def init(key):
        hidden, output = jax.random.split(key)
        return {
            "hidden": {"kernel": INITIAL_SCALE * jax.random.normal(hidden, (2 * MODULUS, WIDTH)) / np.sqrt(2)},
            "output": {"kernel": INITIAL_SCALE * jax.random.normal(output, (WIDTH, MODULUS)) / np.sqrt(WIDTH)},
        }

    def metrics(params, split):
        answers = (split["terms"] @ params["hidden"]["kernel"]) ** 2 @ params["output"]["kernel"]
        hits = answers.argmax(axis=-1) == split["sum"].argmax(axis=-1)
        return {
            "loss": jnp.sum((answers - split["sum"]) ** 2, axis=-1),
            "accuracy": hits.astype(jnp.float32),
        }

    return Task(
        train=train,
        validation=validation,
        test=test,
        init=init,
        loss=lambda params, batch: jnp.mean(metrics(params, batch)["loss"]),
        metrics=metrics,
        steps=1000,
        batch_size=256,
        facts={
            "data": f"all sums of two numbers modulo {MODULUS}",
            "examples": dict(zip(SPLITS, map(len, parts), strict=True)),
            "reference": {"accuracy": 1.0},
        },
        hidden_matrices=models.hidden_matrices,
    )
