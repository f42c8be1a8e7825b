"""Ridge regression on the diabetes data: convex, with a known optimum.

The loss reported on every split is how far the training objective lies above its optimum: there is nothing to overfit,
and the error on held-out patients, reported beside it, is often least before the optimum is reached.
"""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn import datasets, model_selection

from optkit.comparison.task import Task

PENALTY = 0.01


def task() -> Task:
    """Returns the task."""
    features, target = map(np.asarray, datasets.load_diabetes(return_X_y=True))
    rows, rest = model_selection.train_test_split(np.arange(len(target)), test_size=0.4, random_state=0)
    data = np.column_stack([features, target])
    data = ((data - data[rows].mean(axis=0)) / data[rows].std(axis=0)).astype(np.float32)

    def split(rows):
        return {"features": data[rows, :-1], "target": data[rows, -1]}

    train = split(rows)
    validation_rows, test_rows = np.array_split(rest, 2)
    optimum = solve(train["features"], train["target"])

    def init(key):
        return {"weights": jax.random.normal(key, (features.shape[1],)), "bias": jnp.zeros(())}

    def predict(params, features):
        return features @ params["weights"] + params["bias"]

    def loss(params, batch):
        error = predict(params, batch["features"]) - batch["target"]
        return jnp.mean(error**2) + PENALTY * jnp.sum(params["weights"] ** 2)

    def metrics(params, split):
        # The objective is quadratic: the distance to its optimum, in its own metric, without cancellation.
        offset = jax.tree.map(jnp.subtract, params, optimum)
        excess = jnp.mean(predict(offset, train["features"]) ** 2) + PENALTY * jnp.sum(offset["weights"] ** 2)
        error = (predict(params, split["features"]) - split["target"]) ** 2
        return {"loss": jnp.full_like(error, excess), "error": error}

    return Task(
        train=train,
        validation=split(validation_rows),
        test=split(test_rows),
        init=init,
        loss=loss,
        metrics=metrics,
        steps=500,
        batch_size=32,
        facts={"data": "scikit-learn diabetes", "optimum": float(loss(optimum, train)), "examples": len(rows)},
    )


def solve(features: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the parameters of least penalized squared error, by the normal equations in double precision."""
    design = np.column_stack([features, np.ones(len(target))]).astype(np.float64)
    penalty = np.diag([PENALTY] * features.shape[1] + [0.0])
    best = np.linalg.solve(design.T @ design / len(target) + penalty, design.T @ target / len(target))
    return {"weights": best[:-1].astype(np.float32), "bias": best[-1].astype(np.float32)}
