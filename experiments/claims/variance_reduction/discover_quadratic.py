"""Discover on a quadratic whose data comes in clusters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding

CURVATURE = np.linspace(0.3, 1.0, 10, dtype=np.float32)
CLUSTERS, SPREAD, NOISE = 10, 3.0, 0.3
RATE, ALPHA, STEPS, SEEDS = 0.05, 0.1, 4000, 5


def loss(params):
    """Is zero at zero."""
    return 0.5 * jnp.sum(CURVATURE * params**2)


def steady_loss(tx):
    """The loss, mean over seeds and over the second half of the steps, with a batch of one cluster in each step."""

    def run(seed):
        offsets_key, draws_key = jax.random.split(jax.random.key(seed))
        offsets = SPREAD * jax.random.normal(offsets_key, (CLUSTERS, *CURVATURE.shape))
        offsets -= jnp.mean(offsets, axis=0)

        def step(carry, key):
            params, state = carry
            cluster_key, noise_key = jax.random.split(key)
            cluster = jax.random.randint(cluster_key, (), 0, CLUSTERS)
            noise = NOISE * jax.random.normal(noise_key, CURVATURE.shape)
            gradient = CURVATURE * params + offsets[cluster] + noise
            updates, state = tx.update(gradient, state, params, cluster_id=cluster)
            params = optax.apply_updates(params, updates)
            return (params, state), loss(params)

        start = jnp.ones(CURVATURE.shape)
        values = jax.lax.scan(step, (start, tx.init(start)), jax.random.split(draws_key, STEPS))[1]
        return jnp.mean(values[STEPS // 2 :])

    return float(jnp.mean(jax.jit(jax.vmap(run))(jnp.arange(SEEDS))))


def measure() -> Finding:
    """Compares the losses."""
    descent = optax.with_extra_args_support(optax.sgd(RATE))
    estimate = optkit.scale_by_cluster_control_variate(CLUSTERS, ALPHA, [1 / CLUSTERS] * CLUSTERS)
    plain, discover = steady_loss(descent), steady_loss(optax.chain(estimate, descent))
    return Finding(f"loss of SGD {plain:.2g}, of Discover {discover:.2g}", 10 * discover <= plain)


CLAIM = Claim(
    method="discover",
    arxiv="2111.11828",
    statement="A momentum for each cluster removes the noise of which cluster a batch comes from.",
    experiment=f"Quadratic with eigenvalues 0.3 to 1 in 10 dimensions, {CLUSTERS} clusters whose gradients differ "
    f"by {SPREAD:g} N(0, I), noise {NOISE} inside them, one cluster a batch, learning rate {RATE}, alpha {ALPHA}, "
    f"{STEPS} steps, {SEEDS} seeds; against SGD.",
    required="a steady loss at least 10 times below that of SGD",
    measure=measure,
)
