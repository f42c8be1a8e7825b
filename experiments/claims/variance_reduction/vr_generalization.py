"""VR-SGD stops at better parameters than SGD when it has fitted the training data as well."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding

SAMPLES, FEATURES, NONZERO, NOISE = 128, 100, 10, 2.0
DEVICES, RATE, STEPS, SEEDS = 8, 0.05, 3000, 8
TRAINING_LOSS = 2.0


class Path(NamedTuple):
    """The mean squared error on the training data and the squared error of the weights after each step."""

    training: np.ndarray
    test: np.ndarray


def measure() -> Finding:
    """Trains with both."""
    mean = optax.stateless(lambda rows, _: jax.tree.map(lambda g: jnp.mean(g, axis=0), rows))
    paths = [run(tx) for tx in (optax.chain(mean, optax.sgd(RATE)), optkit.vr_sgd(RATE))]
    plain, scaled = (float(np.mean([error_when_fitted(path) for path in seeds])) for seeds in paths)
    best = [float(np.mean([path.test.min() for path in seeds])) for seeds in paths]

    def draw(axes):
        for seeds, name in zip(paths, ("SGD", "VR-SGD"), strict=True):
            training, test = (np.mean([path[i] for path in seeds], axis=0) for i in (0, 1))
            axes.plot(training, test, label=name)
        axes.set(xlabel="training error", ylabel="squared error of the weights", xlim=(10, 0.5), ylim=(5, 15))
        axes.legend()

    return Finding(
        f"squared error of the weights at a training error of {TRAINING_LOSS:g}: {scaled:.2f} against {plain:.2f} of"
        f" SGD; the best of each run: {best[1]:.2f} against {best[0]:.2f}",
        scaled <= 0.85 * plain,
        draw,
    )


def run(tx: Any) -> list[Path]:
    """Trains on full batches, split over the devices; one path for each seed."""

    def path(seed):
        keys = jax.random.split(jax.random.key(seed), 3)
        signs = jax.random.rademacher(keys[0], (FEATURES,), jnp.float32)
        truth = jnp.where(jnp.arange(FEATURES) < NONZERO, 2 * signs, 0)
        features = jax.random.normal(keys[1], (SAMPLES, FEATURES))
        labels = features @ truth + NOISE * jax.random.normal(keys[2], (SAMPLES,))
        parts = jax.tree.map(lambda x: x.reshape(DEVICES, -1, *x.shape[1:]), (features, labels))

        def loss(weights, part):
            return jnp.mean((part[0] @ weights - part[1]) ** 2)

        def step(carry, _):
            weights, state = carry
            rows = jax.vmap(jax.grad(loss), (None, 0))(weights, parts)
            updates, state = tx.update(rows, state, weights)
            weights: Any = optax.apply_updates(weights, updates)
            return (weights, state), (loss(weights, (features, labels)), jnp.sum((weights - truth) ** 2))

        start: Any = jnp.zeros(FEATURES)
        return jax.lax.scan(step, (start, tx.init(start)), length=STEPS)[1]

    training, test = map(np.asarray, jax.jit(jax.vmap(path))(jnp.arange(SEEDS)))
    return list(map(Path, training, test))


def error_when_fitted(path: Path) -> float:
    """The squared error of the weights when the training error first falls to `TRAINING_LOSS`."""
    fitted = path.training <= TRAINING_LOSS
    return path.test[np.argmax(fitted)] if np.any(fitted) else np.nan


CLAIM = Claim(
    method="vr_sgd",
    arxiv="2309.13681",
    statement="Scaling by the signal-to-noise ratio of the gradient narrows the gap between training and test error.",
    experiment=f"Linear regression, {SAMPLES} samples, {FEATURES} weights of which {NONZERO} are -2 or 2 and the others"
    f" 0, label noise {NOISE:g}; full batches over {DEVICES} devices, rate {RATE}, {SEEDS} seeds.",
    required=f"squared error of the weights at a training error of {TRAINING_LOSS:g} at least 15% below SGD's",
    measure=measure,
)
