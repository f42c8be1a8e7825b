"""What bucketing does for rules where workers' data differ, without any attacker.

The variance falls to a half, but the constants of Krum and RFA grow when half as many rows are left.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from optax.experimental import aggregating

import optkit
from experiments.claims import Claim, Finding
from optkit.comparison import statistics

ROWS, SIZE, DRAWS, SEEDS, BUCKET, MOST = 24, 50, 100, 8, 2, 0.6
RULES = {
    "coordinate median": optkit.coordinate_median(),
    "RFA": optkit.geometric_median(32, 0.1, tolerance=0, start="zeros"),
    "Krum": optkit.krum(2),
}


def errors(rule: aggregating.Aggregator, size: int) -> np.ndarray:
    """The squared error of the rule behind bucketing, its mean over draws of the buckets, for each seed."""
    bucketed = optkit.bucketing(rule, size, key=0)

    def one(key):
        rows = jax.random.exponential(key, (ROWS, SIZE))  # their median is not their mean

        def draw(state, _):
            found: Any
            found, state = bucketed.update(rows, state)
            return state, jnp.sum((found - jnp.mean(rows, axis=0)) ** 2)

        return jnp.mean(jax.lax.scan(draw, bucketed.init(jnp.zeros(SIZE)), length=DRAWS)[1])

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), SEEDS)), float)


def measure() -> Finding:
    """Compares each rule behind buckets and by itself."""
    found = {name: statistics.student(errors(rule, BUCKET) / errors(rule, 1)) for name, rule in RULES.items()}
    return Finding(
        ", ".join(f"{name} {x.mean:.2f} ({x.low:.2f} to {x.high:.2f})" for name, x in found.items())
        + " of the squared error without buckets",
        all(x.high <= MOST for x in found.values()),
    )


CLAIM = Claim(
    method="bucketing",
    arxiv="2006.09365",
    statement="Where workers' data differ, robust rules are off the mean even without attackers; behind buckets of s"
    " workers their squared error falls with the variance between buckets, s times.",
    experiment=f"{ROWS} rows of {SIZE} exponentially distributed numbers, buckets of {BUCKET}, {DRAWS} draws of them,"
    f" {SEEDS} seeds: the squared distance from the mean of all rows, over that without buckets (half in theory).",
    required=f"at most {MOST} for each rule (95% intervals)",
    measure=measure,
)
