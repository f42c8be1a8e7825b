"""The gradient noise scale from eight parts of a batch is the true one."""

import jax
import jax.numpy as jnp
import numpy as np

import optkit
from experiments.claims import Claim, Finding

DIMENSIONS, PARTS, SAMPLES, STEPS, SEEDS = 2000, 8, 16, 300, 8


def estimate_and_truth(seed: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Reads the noise scale after all steps, and works out the true one."""
    mean_key, deviation_key, noise_key = jax.random.split(jax.random.key(seed), 3)
    mean = 0.05 * jax.random.normal(mean_key, (DIMENSIONS,))
    deviation = jax.random.uniform(deviation_key, (DIMENSIONS,), minval=0.5, maxval=1.5)
    tx = optkit.gradient_noise_scale(SAMPLES, decay=0.99)

    def step(state, key):
        noise = jax.random.normal(key, (PARTS, DIMENSIONS)) / jnp.sqrt(SAMPLES)
        return tx.update(mean + deviation * noise, state, mean)[1], None

    state, _ = jax.lax.scan(step, tx.init(mean), jax.random.split(noise_key, STEPS))
    return optkit.read_noise_scale(state), jnp.sum(deviation**2) / jnp.sum(mean**2)


def measure() -> Finding:
    """Estimates for all seeds."""
    estimates, truths = map(np.asarray, jax.jit(jax.vmap(estimate_and_truth))(jnp.arange(SEEDS)))
    error = float(np.max(np.abs(estimates / truths - 1)))
    return Finding(
        f"{estimates[0]:.0f} where {truths[0]:.0f} is true; largest error of {SEEDS} runs {100 * error:.1f}%",
        error < 0.1,
    )


CLAIM = Claim(
    method="gradient_noise_scale",
    arxiv="1812.06162",
    statement="The norms of gradients of two batch sizes, averaged separately, give the noise scale.",
    experiment=f"Gaussian gradients in {DIMENSIONS} dimensions, mean 0.05 N(0, 1), deviations U(0.5, 1.5); {PARTS}"
    f" parts of {SAMPLES} samples, {STEPS} steps, decay 0.99, {SEEDS} seeds.",
    required="within 10% in every run",
    measure=measure,
)
