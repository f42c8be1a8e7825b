"""Linear regression on targets with Student's t noise, so heavy-tailed that gradients have no variance.

Synthetic, since heavy tails of a known index are the point. The loss reported on every split is that above the optimum
without noise: half the mean squared distance between the predictions and those of the true weights.
"""

import jax
import jax.numpy as jnp
import numpy as np

from optkit.comparison.task import Task

FEATURES = 20
DEGREES_OF_FREEDOM = 1.5
NOISE = 1.0
EXAMPLES = {"train": 20_000, "validation": 2_000, "test": 2_000}


def task() -> Task:
    """Returns the task."""
    rng = np.random.default_rng(0)
    weights = true_weights()

    def sample(examples):
        features = rng.normal(size=(examples, FEATURES))
        noise = NOISE * rng.standard_t(DEGREES_OF_FREEDOM, size=examples)
        target = features @ weights + noise
        return {"features": features.astype(np.float32), "target": target.astype(np.float32)}

    def init(key):
        return {"weights": jax.random.normal(key, (FEATURES,)) / np.sqrt(FEATURES)}

    def loss(params, batch):
        return jnp.mean((batch["features"] @ params["weights"] - batch["target"]) ** 2) / 2

    def metrics(params, split):
        offset = params["weights"] - weights
        return {
            "loss": (split["features"] @ offset) ** 2 / 2,
            "absolute_error": jnp.abs(split["features"] @ params["weights"] - split["target"]),
        }

    splits = {name: sample(examples) for name, examples in EXAMPLES.items()}
    return Task(
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        init=init,
        loss=loss,
        metrics=metrics,
        steps=1000,
        batch_size=16,
        facts={
            "data": f"synthetic, because heavy tails are the point: Student's t noise, {DEGREES_OF_FREEDOM} degrees of"
            " freedom, of infinite variance",
            "examples": EXAMPLES,
        },
    )


def true_weights() -> np.ndarray:
    """Returns the weights that the targets were made with."""
    return np.random.default_rng(1).normal(size=FEATURES).astype(np.float32)
