"""Attackers who spoil other workers' values in each coordinate: rules of coordinates withstand them, Krum does not.

The trimmed mean drops as many honest values on the other side, so that it is off by the bias of a truncated normal
distribution, 9.4 times the error of the honest mean here, and by its noise.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from optax.experimental import aggregating

import optkit
from experiments.claims import Claim, Finding
from optkit.comparison import statistics

ROWS, SIZE, SPOILT, STRENGTH, SEEDS = 20, 1000, 6, 1e3, 8
NEAR, FAR = 10, 1000
RULES = {
    "Phocas": optkit.phocas(SPOILT),
    "trimmed mean": optkit.trimmed_mean(SPOILT),
    "MeaMed": optkit.meamed(SPOILT),
    "coordinate median": optkit.coordinate_median(),
    "Krum": optkit.krum(SPOILT),
    "RFA": optkit.geometric_median(32, 0.1, tolerance=0, start="zeros"),
    "mean": aggregating.average_per_element_updates(),
}


def ratios(rule: aggregating.Aggregator) -> statistics.Estimate:
    """Estimates the rule's squared error over that of the mean of all rows before the attack."""

    def one(key):
        row_key, place_key = jax.random.split(key)
        rows = jax.random.normal(row_key, (ROWS, SIZE))
        places = jax.vmap(lambda key: jax.random.permutation(key, ROWS), out_axes=1)(jax.random.split(place_key, SIZE))
        found: Any = rule.update(jnp.where(places < SPOILT, STRENGTH, rows), rule.init(jnp.zeros(SIZE)))[0]
        return jnp.sum(found**2) / jnp.sum(jnp.mean(rows, axis=0) ** 2)

    return statistics.student(np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), SEEDS)), float))


def measure() -> Finding:
    """Applies all rules."""
    found = {name: ratios(rule) for name, rule in RULES.items()}
    low, high = list(found.values())[:4], list(found.values())[4:]
    return Finding(
        ", ".join(f"{name} {ratio.mean:.3g}" for name, ratio in found.items()) + " times the error of the honest mean",
        all(ratio.high <= NEAR for ratio in low) and all(ratio.low >= FAR for ratio in high),
    )


CLAIM = Claim(
    method="phocas",
    arxiv="1805.09682",
    statement="Where values of other workers are spoilt in each coordinate, so that no worker is honest in all of them,"
    " rules of coordinates (Phocas, trimmed mean, MeaMed, median) still bound the error, and rules that weigh whole"
    " workers do not.",
    experiment=f"{ROWS} rows of {SIZE:,} normal numbers, in each coordinate {SPOILT} of them, drawn at random,"
    f" replaced by {STRENGTH:g}, {SEEDS} seeds: the squared error over that of the mean of the rows before.",
    required=f"at most {NEAR} times for the first four, at least {FAR:,} times for Krum, RFA and the mean (95%"
    " intervals)",
    measure=measure,
)
