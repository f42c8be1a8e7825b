"""A matrix of low rank, recovered from fewer random measurements than it has entries.

Gunasekar et al., "Implicit Regularization in Matrix Factorization", 2017, arXiv:1705.09280, and Li, Ma, Zhang,
"Algorithmic Regularization in Over-parameterized Matrix Sensing and Neural Networks with Quadratic Activations", 2017,
arXiv:1712.09203: the matrix is the product of two square factors, which can be any matrix, so that infinitely many
products fit all measurements; from a small initialization gradient descent finds the one of low rank.

The known optimum is 0, the loss of the true matrix on every split. The loss on new measurements estimates the squared
distance to the true matrix over its squared norm, so that the matrix of zeros has a loss of 1.
"""

import jax
import jax.numpy as jnp
import numpy as np

from optkit.comparison.task import Task

SIZE = 24
RANK = 2
INITIAL_SCALE = 1e-2
# Half as many measurements as the matrix has entries, and three times as many as a matrix of its rank has freedoms.
EXAMPLES = {"train": 288, "validation": 1_000, "test": 1_000}


def task() -> Task:
    """Returns the task."""
    random = np.random.default_rng(0)
    truth = true_matrix()

    def sample(examples):
        measurement = random.normal(size=(examples, SIZE, SIZE))
        value = np.einsum("nij,ij->n", measurement, truth)
        return {"measurement": measurement.astype(np.float32), "value": value.astype(np.float32)}

    def init(key):
        left, right = INITIAL_SCALE * jax.random.normal(key, (2, SIZE, SIZE)) / np.sqrt(SIZE)
        return {"left": left, "right": right}

    def metrics(params, split):
        matrix = params["left"] @ params["right"].T
        return {"loss": (jnp.einsum("nij,ij->n", split["measurement"], matrix) - split["value"]) ** 2}

    splits = {name: sample(examples) for name, examples in EXAMPLES.items()}
    return Task(
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        init=init,
        loss=lambda params, batch: jnp.mean(metrics(params, batch)["loss"]),
        metrics=metrics,
        steps=1000,
        batch_size=32,
        facts={
            "data": f"synthetic: Gaussian measurements of a matrix of {SIZE} rows, {SIZE} columns and rank {RANK}",
            "examples": EXAMPLES,
            "reference": {"loss": 0.0},
        },
    )


def true_matrix() -> np.ndarray:
    """Returns the matrix to recover, of Frobenius norm 1."""
    left, right = np.random.default_rng(1).normal(size=(2, SIZE, RANK))
    matrix = left @ right.T
    return matrix / np.linalg.norm(matrix)
