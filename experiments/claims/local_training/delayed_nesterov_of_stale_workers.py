"""Delayed Nesterov against Nesterov's momentum that changes with each pseudo-gradient of asynchronous workers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding
from optkit.comparison import statistics

DIMENSION, LOCAL_STEPS, INNER_RATE, ARRIVALS, SEEDS, NOISE = 20, 5, 0.1, 400, 8, 0.1
STEP_TIMES, RATES = (1.0, 1.0, 2.0, 4.0), (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
WORKERS = len(STEP_TIMES)


def delayed(rate: Any) -> optax.GradientTransformation:
    """Makes the server's optimizer with delay."""
    return optkit.delayed_nesterov(rate, 0.9, WORKERS)


def plain(rate: Any) -> optax.GradientTransformation:
    """Makes the one without, as in the paper."""
    return optax.chain(
        optkit.scale_by_staleness(), optax.scale(WORKERS**-0.5), optax.sgd(rate, momentum=0.9, nesterov=True)
    )


def ends(build: Callable[[Any], optax.GradientTransformation]) -> tuple[np.ndarray, float]:
    """Simulates with all outer learning rates and seeds.

    Returns:
        The mean loss over the second half of the arrivals, by seed, and the rate, the best one by the mean over seeds.
    """
    curvature = jnp.geomspace(0.1, 1.0, DIMENSION)

    def run(rate, key):
        start_key, arrivals_key = jax.random.split(key)

        def grad_fn(params, _, key):
            return curvature * params + NOISE * jax.random.normal(key, params.shape)

        simulator = optkit.asynchronous_local_sgd(
            grad_fn, optax.sgd(INNER_RATE), build(rate), STEP_TIMES, local_steps=LOCAL_STEPS
        )

        def arrive(state, arrival):
            state = simulator.run(state, jax.tree.map(lambda x: x[None], arrival))
            return state, jnp.sum(curvature * state.params**2) / 2

        start = simulator.init(jax.random.normal(start_key, (DIMENSION,)))
        losses = jax.lax.scan(arrive, start, simulator.arrivals(arrivals_key, ARRIVALS))[1]
        return jnp.mean(losses[ARRIVALS // 2 :])

    over_seeds = jax.vmap(run, (None, 0))
    seeds = jax.random.split(jax.random.key(0), SEEDS)
    losses = np.asarray(jax.jit(jax.vmap(over_seeds, (0, None)))(jnp.asarray(RATES), seeds), float)
    best = int(np.argmin(np.nan_to_num(losses.mean(axis=1), nan=np.inf)))
    return losses[best], RATES[best]


def measure() -> Finding:
    """Simulates both."""
    (ours, our_rate), (theirs, their_rate) = ends(delayed), ends(plain)
    found = statistics.student(np.log(ours / theirs))
    mean, low, high = np.exp(found[:3])
    return Finding(
        f"{np.mean(ours):.2e} (rate {our_rate:g}) against {np.mean(theirs):.2e} (rate {their_rate:g}), {mean:.3f} times"
        f" ({low:.3f} to {high:.3f})",
        found.high < 0,
    )


CLAIM = Claim(
    method="delayed_nesterov",
    arxiv="2401.09135",
    statement="With stale workers, a momentum that changes only with every N-th pseudo-gradient is better than one that"
    " changes with each.",
    experiment=f"A quadratic with curvatures from 0.1 to 1 in {DIMENSION} dimensions, noise of N(0, {NOISE**2:g}) in"
    f" each entry of a gradient, {WORKERS} workers whose steps take times of"
    f" {', '.join(f'{time:g}' for time in STEP_TIMES)}, {LOCAL_STEPS} steps of SGD at a rate of {INNER_RATE:g} in a"
    f" round, {ARRIVALS} arrivals; momentum 0.9, delayed against Nesterov's with weights for staleness; each at the"
    f" best of the outer rates {', '.join(f'{rate:g}' for rate in RATES)}, {SEEDS} seeds: the mean loss over the second"
    " half of the arrivals.",
    required="a lower loss (paired 95% interval)",
    measure=measure,
)
