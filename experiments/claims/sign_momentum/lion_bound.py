"""Lion's weight decay keeps every parameter inside a box, and brings back those that start outside."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.sign_momentum import NETWORK, SEEDS, batches, digits_network

RATE, WEIGHT_DECAY = 3e-3, 10.0
BATCH, STEPS = 64, 500
SCALE = 10.0
ROUNDING = 1e-5
FULL = 0.95


def measure() -> Finding:
    """Trains with both forms of the decay, and with AdamW."""
    network = digits_network()
    rows = jnp.asarray(batches(network.examples, BATCH, STEPS))
    keys = jax.random.split(jax.random.key(0), SEEDS)

    def run(tx, factor):
        def steps(key, rows):
            start = jax.tree.map(lambda x: SCALE * x, network.init(key))
            outside = jax.tree.map(lambda x: jnp.maximum(jnp.abs(x) - 1 / WEIGHT_DECAY, 0), start)

            def step(carry, batch):
                params, state, outside = carry
                updates, state = tx.update(jax.grad(network.loss)(params, batch), state, params)
                params = optax.apply_updates(params, updates)
                outside = jax.tree.map(lambda x: factor * x, outside)
                excess = jax.tree.map(lambda x, far: jnp.abs(x) - 1 / WEIGHT_DECAY - far, params, outside)
                return (params, state, outside), optax.tree.max(excess)

            (params, _, _), excess = jax.lax.scan(step, (start, tx.init(start), outside), rows)
            largest = [optax.tree.norm(tree, ord=jnp.inf) for tree in (start, params)]
            return WEIGHT_DECAY * jnp.stack([jnp.max(excess), *largest])

        return np.asarray(jax.jit(jax.vmap(steps))(keys, rows))

    lion = functools.partial(optkit.lion_kappa, RATE, weight_decay=WEIGHT_DECAY)
    explicit = run(lion(), 1 - RATE * WEIGHT_DECAY)
    implicit = run(lion(implicit_decay=True), 1 / (1 + RATE * WEIGHT_DECAY))
    adamw = run(optax.adamw(RATE, weight_decay=WEIGHT_DECAY), 1 - RATE * WEIGHT_DECAY)
    both = np.stack([explicit, implicit])
    return Finding(
        f"in units of 1 / weight_decay: largest excess over the bound {explicit[:, 0].max():.1e} (implicit decay"
        f" {implicit[:, 0].max():.1e}, AdamW {adamw[:, 0].max():.2g}); largest parameter at first"
        f" {both[..., 1].max():.0f}, at the end {both[..., 2].min():.3f} to {both[..., 2].max():.3f}",
        bool(both[..., 0].max() <= ROUNDING and both[..., 2].min() >= FULL),
    )


CLAIM = Claim(
    method="lion_kappa",
    arxiv="2310.05898",
    statement=(
        "Lion keeps every parameter within 1 / weight_decay; outside, the distance shrinks in each step by at least the"
        " factor 1 - learning_rate * weight_decay (implicit decay: 1 / (1 + learning_rate * weight_decay))."
    ),
    experiment=(
        f"{NETWORK[0].upper()}{NETWORK[1:]}, all weights {SCALE:g} times as large as usual at first, batches of"
        f" {BATCH}, {STEPS} steps at rate {RATE:g} with weight decay {WEIGHT_DECAY:g}, {SEEDS} seeds; every parameter"
        " in every step."
    ),
    required=(
        f"no parameter beyond its bound by more than {ROUNDING:g} / weight_decay (rounding), and in every run one of at"
        f" least {FULL:g} / weight_decay at the end, so that the bound is in force"
    ),
    measure=measure,
)
