"""Decentralized SGD leaves a saddle after as many steps as the mean of all workers' noise predicts."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding

WORKERS, NOISE, SEEDS = 8, 1.0, 256
RADIUS, TOLERANCE, NEAR, SHARE, TIMES = 0.1, 0.1, 0.1, 0.99, 5
RATES = (0.01, 0.004, 0.001)
SPREAD = 1.0  # how far apart the workers' minima lie along the other axis


def predicted_steps(rate: float) -> float:
    """Solves the linear recursion: the variance of the mean grows by (1 + rate)^2, and by that of the mean's noise."""
    per_step = rate**2 * NOISE**2 / WORKERS
    growth = (1 + rate) ** 2
    return math.log1p(RADIUS**2 * (growth - 1) / per_step) / math.log(growth)


def trajectories(rate: float, steps: int, noise: float, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Trains from the saddle; gives the mean square of the workers' mean along it after each step, and the ends."""
    tx = optkit.gossip(optax.sgd(rate), optkit.topology.ring(WORKERS), axis_name="workers")
    offsets = SPREAD * jnp.cos(2 * jnp.pi * jnp.arange(WORKERS) / WORKERS)

    def worker(offset, key):
        def step(carry, count):
            params, state = carry
            gradient = jnp.stack([params[0] - offset, params[1] ** 3 - params[1]])
            gradient += noise * jax.random.normal(jax.random.fold_in(key, count), (2,))
            updates, state = tx.update(gradient, state, params)
            params: Any = optax.apply_updates(params, updates)
            return (params, state), jax.lax.pmean(params[1], "workers")

        start = jnp.zeros(2)
        return jax.lax.scan(step, (start, tx.init(start)), jnp.arange(steps))[1]

    def run(seed):
        keys = jax.random.split(jax.random.key(seed), WORKERS)
        return jax.vmap(worker, axis_name="workers", out_axes=None)(offsets, keys)

    means = jax.jit(jax.vmap(run))(jnp.arange(seeds))
    return np.mean(np.square(means), axis=0), np.asarray(means[:, -1])


def measure() -> Finding:
    """Compares the steps to leave the saddle with the prediction at all rates."""
    off, texts, ends = [], [], np.empty(0)
    for rate in RATES:
        predicted = predicted_steps(rate)
        squares, ends = trajectories(rate, math.ceil(TIMES * predicted), NOISE, SEEDS)
        found = int(np.argmax(squares >= RADIUS**2)) + 1
        off.append(abs(found / predicted - 1))
        texts.append(f"{found:,} steps (predicted {predicted:,.0f}) at rate {rate:g}")
    arrived = float(np.mean(np.abs(np.abs(ends) - 1) < NEAR))
    still = float(trajectories(RATES[0], 1000, 0.0, 1)[0][-1])
    return Finding(
        f"{', '.join(texts)}; at the smallest rate {arrived:.1%} of the runs end near a minimum; without noise the"
        f" mean is {still:g} off the saddle after 1,000 steps",
        max(off) <= TOLERANCE and arrived >= SHARE and still == 0.0,
    )


CLAIM = Claim(
    method="gossip",
    arxiv="1907.01849",
    statement="Gradient noise drives decentralized SGD away from a strict saddle after about log(1 / rate) / (2 rate)"
    " steps, like training on the mean of all workers' gradients.",
    experiment=f"f(x, y) = x^2 / 2 - y^2 / 2 + y^4 / 4 from its saddle, {WORKERS} workers on a ring whose minima along"
    f" x differ, noise of deviation {NOISE:g} in each coordinate, rates {', '.join(f'{rate:g}' for rate in RATES)},"
    f" {SEEDS} seeds: steps until the root mean square of the workers' mean along y is {RADIUS}, and where runs are"
    f" after {TIMES} times as many.",
    required=f"steps within {TOLERANCE:.0%} of the linear recursion's at each rate, at least {SHARE:.0%} of the runs"
    f" within {NEAR} of a minimum at the smallest rate, and none leaves without noise",
    measure=measure,
)
