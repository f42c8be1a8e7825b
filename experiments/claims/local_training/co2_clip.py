"""CO2 on quadratics whose rounds go almost all the way to the minimum, with a penalty, with a clip, and without."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding

WORKERS, DIMENSION, EVERY, ROUNDS, RATE, OUTER_MOMENTUM = 4, 20, 48, 120, 0.5, 0.5
PENALTY, CLIP = 3.0, 0.1
FAR, NEAR = 1e3, 1e-3


def distance(**options: Any) -> float:
    """Returns how far the anchor stands from the minimum at the end, times the distance at the start."""
    tx = optkit.co2(optax.sgd(RATE), 1.0, OUTER_MOMENTUM, EVERY, axis_name="workers", **options)
    curvature = jnp.geomspace(0.1, 1.0, DIMENSION)
    targets = jax.random.normal(jax.random.key(0), (WORKERS, DIMENSION))

    def worker(target):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(curvature * (params - target), state, params)
            return (optax.apply_updates(params, updates), state), None

        start = jnp.zeros(DIMENSION)
        params, state = jax.lax.scan(step, (start, tx.init(start)), length=EVERY * ROUNDS)[0]
        return optkit.co2_eval_params(state, params)

    anchor = jax.jit(jax.vmap(worker, axis_name="workers"))(targets)[0]
    minimum = jnp.mean(targets, axis=0)
    return float(jnp.linalg.norm(anchor - minimum) / jnp.linalg.norm(minimum))


def measure() -> Finding:
    """Descends with all three."""
    plain, clipped, divided = distance(), distance(clip_threshold=CLIP), distance(gap_penalty=PENALTY)
    return Finding(
        f"{plain:.1e} times the distance at the start; {clipped:.2f} with the clip, {divided:.1e} with the penalty",
        bool((not np.isfinite(plain) or plain >= FAR) and clipped < 1 and divided <= NEAR),
    )


CLAIM = Claim(
    method="co2",
    arxiv="2401.16265",
    statement="The clip and the penalty make CO2 stable where its outer steps would swing ever further.",
    experiment=f"Quadratics with curvatures from 0.1 to 1 in {DIMENSION} dimensions, whose minima differ between"
    f" {WORKERS} workers; SGD at a rate of {RATE}, outer momentum {OUTER_MOMENTUM}, {ROUNDS} rounds of {EVERY} steps:"
    f" the anchor's distance from the minimum of the mean, without, with a clip of {CLIP}, and with a constant penalty"
    f" of {PENALTY:g}.",
    required=f"at least {FAR:g} times the distance at the start without, less than it with the clip, at most {NEAR:g}"
    " times it with the penalty",
    measure=measure,
)
