"""Subgradient steps on CVaR lower the largest losses further than steps on the mean loss do."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.median_clipping.cvar import BETA, EXAMPLES, FEATURES, STEPS, problem, train
from optkit.comparison import statistics

SEEDS, RATES = 8, (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)


def mean_loss(rate: Any, beta: float) -> optax.GradientTransformationExtraArgs:
    """Makes SGD on the mean loss, with the same decay of the rate."""
    del beta
    return optax.with_extra_args_support(optax.sgd(lambda count: rate / jnp.sqrt(count + 1)))


def best(method: Any) -> tuple[np.ndarray, float]:
    """Trains with all rates; gives CVaR by seed at the rate with the lowest mean, and that rate."""

    def run(rate, key):
        data_key, order_key = jax.random.split(key)
        return train(method, rate, problem(data_key), jax.random.randint(order_key, (STEPS,), 0, EXAMPLES))

    over_seeds = jax.vmap(run, (None, 0))
    keys = jax.random.split(jax.random.key(1), SEEDS)
    values = np.asarray(jax.jit(jax.vmap(over_seeds, (0, None)))(jnp.array(RATES), keys))
    chosen = int(np.argmin(np.nan_to_num(np.mean(values, axis=1), nan=np.inf)))
    return values[chosen], RATES[chosen]


def measure() -> Finding:
    """Trains on CVaR and on the mean."""
    ours, our_rate = best(optkit.cvar_subgradient)
    theirs, their_rate = best(mean_loss)
    found = statistics.student(np.log(ours / theirs))
    mean, low, high = np.exp(found[:3])
    return Finding(
        f"{np.mean(ours):.3g} (rate {our_rate:g}) against {np.mean(theirs):.3g} (rate {their_rate:g}): {mean:.3f} times"
        f" ({low:.3f} to {high:.3f})",
        bool(found.high < 0),
    )


CLAIM = Claim(
    method="cvar_subgradient",
    arxiv="2305.17498",
    statement="Subgradient steps on CVaR give a lower mean of the largest losses than steps on the mean of all losses.",
    experiment=f"Linear regression on {EXAMPLES} examples with {FEATURES} features and Student's t noise (3 degrees of"
    f" freedom), {STEPS} steps of one example at rates over sqrt(t + 1), {SEEDS} seeds, each at the best of"
    f" {len(RATES)} rates from {RATES[0]:g} to {RATES[-1]:g}: the mean of the largest {1 - BETA:.0%} of the training"
    " losses at the average of the second half of the iterates.",
    required="a lower one than SGD on the mean loss (paired 95% interval of the ratio)",
    measure=measure,
)
