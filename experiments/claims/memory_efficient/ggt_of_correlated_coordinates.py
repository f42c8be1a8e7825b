"""GGT against the diagonal of AdaGrad on a quadratic whose coordinates are correlated."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.memory_efficient import ratio

DIMENSION, CONDITION, NOISE, STEPS, SEEDS = 20, 1e3, 1e-3, 500, 8
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0)


def losses(build) -> tuple[np.ndarray, float]:
    """Descends with all rates; gives the last losses by seed at the best of them, and that rate."""
    eigenvalues, falling = jnp.geomspace(1 / CONDITION, 1.0, DIMENSION), optax.linear_schedule(1.0, 0.0, STEPS)

    def run(rate, seed):
        basis_key, start_key, noise_key = jax.random.split(jax.random.key(seed), 3)
        basis = jnp.linalg.qr(jax.random.normal(basis_key, (DIMENSION, DIMENSION)))[0]
        hessian = (basis * eigenvalues) @ basis.T
        tx = build(lambda count: rate * falling(count))

        def step(carry, key):
            params, state = carry
            gradient = hessian @ params + NOISE * jax.random.normal(key, params.shape)
            updates, state = tx.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        start = jax.random.normal(start_key, (DIMENSION,))
        params: Any = jax.lax.scan(step, (start, tx.init(start)), jax.random.split(noise_key, STEPS))[0][0]
        return 0.5 * params @ hessian @ params

    over_seeds = jax.vmap(run, (None, 0))
    found = np.asarray(jax.jit(jax.vmap(over_seeds, (0, None)))(jnp.asarray(RATES), jnp.arange(SEEDS)))
    best = int(np.nanargmin(found.mean(axis=1)))
    return found[best], RATES[best]


def measure() -> Finding:
    """Descends with both."""
    ours, our_rate = losses(lambda rate: optkit.ggt(rate, window=2 * DIMENSION))
    theirs, their_rate = losses(optax.adagrad)
    found, shown = ratio(ours, theirs)
    return Finding(
        f"GGT {np.mean(ours):.2g} (rate {our_rate:g}), AdaGrad {np.mean(theirs):.2g} (rate {their_rate:g}): {shown}",
        found.high <= 0.5,
    )


CLAIM = Claim(
    method="ggt",
    arxiv="1806.02958",
    statement="Preconditioning by the full matrix of the last gradients learns faster than by its diagonal where"
    " coordinates are correlated.",
    experiment=f"Quadratic in {DIMENSION} dimensions with eigenvalues 1/{CONDITION:g} to 1 along random directions,"
    f" gradients with noise of {NOISE:g}, {STEPS} steps with the rate falling linearly to zero, a window of"
    f" {2 * DIMENSION} gradients, {SEEDS} seeds at the best of {len(RATES)} rates from {RATES[0]:g} to {RATES[-1]:g}:"
    " last loss against that of AdaGrad.",
    required="at most half of it (paired 95% interval)",
    measure=measure,
)
