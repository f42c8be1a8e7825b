"""Claims about robust aggregation, and the noisy quadratic under attack that they are measured on."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.experimental import aggregating

import optkit

SIZE, NOISE, WORKERS = 30, 5.0, 25
RATE, STEPS, SEEDS = 0.1, 600, 4
DECAYS = (0.0, 0.9, 0.99)
EXPERIMENT = (
    f"f(x) = |x|^2 / 2 with {SIZE} parameters, {WORKERS} workers whose gradients have noise of deviation {NOISE:g} in"
    f" each coordinate, rate {RATE}, {STEPS} steps from ones, loss of the last fifth, mean of {SEEDS} seeds; momentum"
    f" {', '.join(f'{decay:g}' for decay in DECAYS)} on the workers"
)


# What centered clipping takes with each momentum: gradients that are not averaged are further apart.
RADII = (20.0, 5.0, 5.0)


def steady_losses(
    build: Callable[[Any], aggregating.Aggregator],
    attack: Callable[..., Any],
    byzantine: int,
    key: int | None = None,
) -> list[float]:
    """Trains with a server, once with each momentum.

    Args:
        build: gives the server's rule, for the radius that centered clipping takes.
        attack: what the last workers send, of what the others do.
        byzantine: how many these are.
        key: seed of an attack that draws, which is then called with a key too.

    Returns:
        The mean losses of the last fifth of the steps.
    """

    def run(decay, radius, seed):
        momentum = optkit.per_row(optax.ema(decay, debias=False), WORKERS)
        attacked = optkit.attacks.under_attack(attack, byzantine, key=key)
        tx = optax.chain(momentum, attacked, build(radius), optax.scale_by_learning_rate(RATE))

        def step(carry, key):
            params, state = carry
            gradients = params + NOISE * jax.random.normal(key, (WORKERS, SIZE))
            updates, state = tx.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), 0.5 * optax.tree.norm(params, squared=True)

        start = jnp.ones(SIZE)
        losses = jax.lax.scan(step, (start, tx.init(start)), jax.random.split(jax.random.key(seed), STEPS))[1]
        return jnp.mean(losses[-STEPS // 5 :])

    over_seeds = jax.vmap(run, (None, None, 0))
    losses = jax.jit(jax.vmap(over_seeds, (0, 0, None)))(jnp.array(DECAYS), jnp.array(RADII), jnp.arange(SEEDS))
    return np.mean(losses, axis=1).tolist()


def listed(scores: dict[str, list[float]]) -> str:
    """Writes the losses of each rule in the order of the momenta."""
    return "; ".join(f"{name} {', '.join(f'{score:.3g}' for score in values)}" for name, values in scores.items())
