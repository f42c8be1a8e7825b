"""The center of elastic averaging against the mean of local SGD, on noisy quadratics."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding
from optkit.comparison import statistics

WORKERS, DIMENSION, EVERY, STEPS, RATE, SEEDS, MARGIN = 8, 20, 4, 2000, 0.1, 8, 1.0


def losses(tx: optax.GradientTransformation, report: Callable[[Any, Any], Any]) -> np.ndarray:
    """Returns the mean loss of the reported point over the second half of a run, by seed."""
    curvature = jnp.geomspace(0.1, 1.0, DIMENSION)

    def worker(key):
        def step(carry, key):
            params, state = carry
            noise = jax.random.normal(key, (DIMENSION,))
            updates, state = tx.update(curvature * params + noise, state, params)
            params = optax.apply_updates(params, updates)
            point = jax.lax.pmean(report(state, params), "workers")
            return (params, state), jnp.sum(curvature * point**2) / 2

        start = jnp.ones(DIMENSION)
        found = jax.lax.scan(step, (start, tx.init(start)), jax.random.split(key, STEPS))[1]
        return jnp.mean(found[STEPS // 2 :])

    keys = jax.random.split(jax.random.key(0), (SEEDS, WORKERS))
    return np.asarray(jax.jit(jax.vmap(jax.vmap(worker, axis_name="workers", out_axes=None)))(keys), float)


def measure() -> Finding:
    """Descends with both."""
    inner = optax.sgd(RATE)
    center = losses(
        optkit.elastic_averaging(inner, every=EVERY, axis_name="workers"), optkit.elastic_averaging_eval_params
    )
    mean = losses(optkit.local_updates(inner, every=EVERY, axis_name="workers"), lambda _, params: params)
    found = np.exp(statistics.student(np.log(center / mean))[:3])
    return Finding(
        f"{np.mean(center):.5f} against {np.mean(mean):.5f}, {found[0]:.3f} times ({found[1]:.3f} to {found[2]:.3f})",
        bool(found[0] <= MARGIN),
    )


CLAIM = Claim(
    method="elastic_averaging",
    arxiv="1412.6651",
    statement="The center of elastic averaging is no worse than the mean of local SGD.",
    experiment=f"A quadratic with curvatures from 0.1 to 1 in {DIMENSION} dimensions, noise of N(0, 1) in each entry of"
    f" a gradient, {WORKERS} workers that exchange every {EVERY} steps, SGD at a rate of {RATE}, {STEPS} steps, the"
    f" default force, {SEEDS} seeds: the loss of the center and of the workers' mean, over the second half.",
    required=f"at most {MARGIN:g} times the loss",
    measure=measure,
)
