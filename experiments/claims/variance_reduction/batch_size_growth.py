"""The norm test grows the batch of a regression, inside one compiled step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding

SAMPLES, FEATURES, FIRST_BATCH, STEPS, SEEDS = 4000, 20, 8, 150, 8
STRICTNESS = (1.0, 0.5)
SHOWN = (1, 11, 51, 150)


class Training(NamedTuple):
    """The batch size that each step asks for, and the squared error of the weights at the end, for each seed."""

    batches: np.ndarray
    error: np.ndarray


def train(eta: float) -> Training:
    """Draws batches of the size that the test asked for, padded to all samples so that nothing compiles again."""
    test = optkit.norm_test(eta)
    tx: Any = optax.chain(optkit.adaptive_batch_size(test, FIRST_BATCH, SAMPLES), optkit.adagrad_norm(2.0, b0=0.01))

    def run(seed):
        truth_key, feature_key, noise_key, batch_key = jax.random.split(jax.random.key(seed), 4)
        truth = jax.random.normal(truth_key, (FEATURES,))
        features = jax.random.normal(feature_key, (SAMPLES, FEATURES))
        labels = features @ truth + jax.random.normal(noise_key, (SAMPLES,))

        def step(carry, key):
            weights, state = carry
            in_batch = jax.random.permutation(key, SAMPLES) < state[0].next_batch
            rows = (features @ weights - labels)[:, None] * features  # the gradient of each sample
            updates, state = tx.update(rows, state, weights, sample_counts=in_batch)
            weights: Any = optax.apply_updates(weights, updates)
            return (weights, state), state[0].next_batch

        start: Any = jnp.zeros(FEATURES)
        (weights, _), batches = jax.lax.scan(step, (start, tx.init(start)), jax.random.split(batch_key, STEPS))
        return batches, jnp.sum((weights - truth) ** 2)

    return Training(*map(np.asarray, jax.jit(jax.vmap(run))(jnp.arange(SEEDS))))


def measure() -> Finding:
    """Trains with a lax and a strict test."""
    lax, strict = map(train, STRICTNESS)
    at = np.array(SHOWN) - 1
    ordered = np.all(lax.batches[:, at] <= strict.batches[:, at])
    grows = all(
        np.all(np.diff(run.batches, axis=1) >= 0) and np.all(run.batches[:, 0] < SAMPLES) for run in (lax, strict)
    )
    learns = all(np.all(run.error < 0.02) for run in (lax, strict))

    def draw(axes):
        for run, eta in zip((lax, strict), STRICTNESS, strict=True):
            lines = axes.step(1 + np.arange(STEPS), run.batches.T, where="post", color=f"C{STRICTNESS.index(eta)}")
            lines[0].set_label(f"eta = {eta:g}")
        axes.set(xlabel="step", ylabel="batch size", yscale="log")
        axes.legend()

    figures = "; ".join(
        f"eta {eta:g}: {', '.join(f'{size:.0f}' for size in np.median(run.batches[:, at], axis=0))},"
        f" largest squared error {run.error.max():.4f}"
        for run, eta in zip((lax, strict), STRICTNESS, strict=True)
    )
    return Finding(
        f"median batch after {', '.join(map(str, SHOWN))} steps, {figures}", bool(ordered and grows and learns), draw
    )


CLAIM = Claim(
    method="adaptive_batch_size",
    arxiv="2402.11215",
    statement="A test of the gradient's noise grows the batch as training goes on, the sooner the stricter it is.",
    experiment=f"Linear regression, {SAMPLES} samples, {FEATURES} weights, label noise 1; AdaGrad-norm at rate 2 with"
    f" b0 = 0.01, {STEPS} steps, first batch {FIRST_BATCH}, norm test on the gradients of the samples, {SEEDS} seeds.",
    required="in every run: batches that never fall, no smaller with eta 0.5 than with 1 after"
    f" {', '.join(map(str, SHOWN))} steps, and a squared error of the weights below 0.02 at the end",
    measure=measure,
)
