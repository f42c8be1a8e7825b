"""Descent along medians of samples on a quadratic with heavy-tailed noise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.experimental import aggregating

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.median_clipping.median_tracking_heavy_tails import CURVATURE, START, TAILS, best, loss

RATES, STEPS, SEEDS, SAMPLES = (0.001, 0.003, 0.01, 0.03, 0.1), 1500, 8, 10
MEAN = aggregating.average_per_element_updates()
EXPERIMENT = (
    f"Quadratic with eigenvalues 0.1 to 1 in {len(CURVATURE)} dimensions, {SAMPLES} samples a step whose gradients have"
    f" Student-t noise with {TAILS} degrees of freedom, {STEPS} steps, {SEEDS} seeds, SGD along each rule's result at"
    f" the best of {len(RATES)} rates from {RATES[0]:g} to {RATES[-1]:g}: median loss of the last fifth, mean of seeds"
)


def steady_loss(rule: optax.GradientTransformation) -> float:
    """Descends along a rule's result; gives the loss of the last fifth at the best rate.

    Args:
        rule: takes one gradient from a row for each sample.
    """

    def run(rate, seed):
        tx = optax.chain(rule, optax.sgd(rate))

        def step(carry, key):
            params, state = carry
            noise = jax.random.t(key, TAILS, (SAMPLES, *CURVATURE.shape))
            updates, state = tx.update(jax.grad(loss)(params) + noise, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), loss(params)

        start = jnp.full(CURVATURE.shape, START)
        keys = jax.random.split(jax.random.key(seed), STEPS)
        return jax.lax.scan(step, (start, tx.init(start)), keys)[1]

    over_seeds = jax.vmap(run, (None, 0))
    curves = jax.jit(jax.vmap(over_seeds, (0, None)))(jnp.array(RATES), jnp.arange(SEEDS))
    return float(best(np.asarray(curves))[0])


def measure() -> Finding:
    """Descends along the mean and along both medians."""
    rules = {
        "the mean": MEAN,
        "the geometric median": optkit.geometric_median(),
        "the coordinate median": optkit.coordinate_median(),
    }
    scores = {name: steady_loss(rule) for name, rule in rules.items()}
    return Finding(
        f"loss along {', '.join(f'{name} {score:.2g}' for name, score in scores.items())}",
        10 * scores["the geometric median"] < scores["the mean"],
    )


CLAIM = Claim(
    method="geometric_median",
    arxiv="2402.12828",
    statement="Under noise without variance, descent along the geometric median of samples' gradients converges where"
    " descent along their mean fails.",
    experiment=f"{EXPERIMENT}; the coordinate median is reported.",
    required="along the geometric median a loss less than a tenth of that along the mean",
    measure=measure,
)
