"""Clipping the largest coordinates on a quadratic with few steep directions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding

STEEP, ALL, CURVATURE = 10, 200, 300.0
RATES, STEPS, SEEDS = np.geomspace(1e-4, 3.0, 60, dtype=np.float32), 50, 5
FRACTIONS = (0.1, 0.05, 0.5)


def best_loss(build):
    """The loss after all steps, mean over seeds, at the best rate."""
    curvature = jnp.where(jnp.arange(ALL) < STEEP, CURVATURE, 1.0)

    def loss(params):
        return 0.5 * jnp.sum(curvature * params**2)

    def run(rate, seed):
        tx = build(rate)

        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        start = jax.random.normal(jax.random.key(seed), (ALL,))
        (params, _), _ = jax.lax.scan(step, (start, tx.init(start)), length=STEPS)
        return loss(params)

    over_all = jax.vmap(jax.vmap(run, (None, 0)), (0, None))
    return float(np.nanmin(np.mean(jax.jit(over_all)(RATES, jnp.arange(SEEDS)), axis=1)))


def measure():
    """Runs gradient descent and all shares."""
    descent = best_loss(optax.sgd)
    clipped = [
        best_loss(lambda rate, share=fraction: optax.chain(optkit.clip_by_quantile(share), optax.sgd(rate)))
        for fraction in FRACTIONS
    ]
    listed = ", ".join(f"{loss:.2g} clipping {fraction:g}" for fraction, loss in zip(FRACTIONS, clipped, strict=True))
    return Finding(f"loss {descent:.2g} by gradient descent, {listed}", 100 * clipped[0] < descent)


CLAIM = Claim(
    method="clip_by_quantile",
    arxiv="2306.00204",
    statement="Where few coordinates are steep, clipping the largest of the gradient lets the others converge.",
    experiment=f"Quadratic in {ALL} dimensions, {STEEP} of which have curvature {CURVATURE:g} and the others 1, whole "
    f"gradients, {STEPS} steps from N(0, I), {SEEDS} seeds, the best of {len(RATES)} rates; against gradient descent.",
    required="a loss more than 100 times below that of gradient descent when a tenth is clipped; other shares reported",
    measure=measure,
)
