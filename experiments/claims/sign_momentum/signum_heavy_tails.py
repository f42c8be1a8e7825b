"""Signum against SGD with momentum under noise without variance."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.median_clipping.median_tracking_heavy_tails import CURVATURE, START, TAILS, best, loss

RATES, STEPS, SEEDS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2), 1500, 8


def steady_loss(build) -> tuple[float, float]:
    """Descends with all rates; gives the loss of the last fifth at the best of them, and that rate."""

    def run(rate, seed):
        tx = build(rate)

        def step(carry, key):
            params, state = carry
            gradient = jax.grad(loss)(params) + jax.random.t(key, TAILS, CURVATURE.shape)
            updates, state = tx.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), loss(params)

        start = jnp.full(CURVATURE.shape, START)
        return jax.lax.scan(step, (start, tx.init(start)), jax.random.split(jax.random.key(seed), STEPS))[1]

    over_seeds = jax.vmap(run, (None, 0))
    curves = jax.jit(jax.vmap(over_seeds, (0, None)))(jnp.array(RATES), jnp.arange(SEEDS))
    found, row = best(np.asarray(curves))[:2]
    return float(found), RATES[int(row)]


def measure() -> Finding:
    """Descends with both."""
    ours, our_rate = steady_loss(lambda rate: optkit.signum(rate, weight_decay=0.0))
    theirs, their_rate = steady_loss(lambda rate: optax.sgd(rate, momentum=0.9))
    return Finding(
        f"loss of Signum {ours:.2g} (rate {our_rate:g}), of SGD with momentum {theirs:.2g} (rate {their_rate:g})",
        10 * ours < theirs,
    )


CLAIM = Claim(
    method="signum",
    arxiv="1802.04434",
    statement="An outlier moves the parameters by the same step as any gradient, so that under noise without variance"
    " Signum converges where SGD with momentum fails.",
    experiment=f"Quadratic with eigenvalues 0.1 to 1 in {len(CURVATURE)} dimensions, gradients with Student-t noise of"
    f" {TAILS} degrees of freedom, {STEPS} steps, momentum 0.9, {SEEDS} seeds at the best of {len(RATES)} rates from"
    f" {RATES[0]:g} to {RATES[-1]:g}: median loss of the last fifth, mean of seeds.",
    required="a loss less than a tenth of that of SGD with momentum",
    measure=measure,
)
