"""Aksel withstands every minority of attackers, even the largest, at the strength that harms it most.

Boussetta, El-Mhamdi, Guerraoui, Maurer, Rouault, "AKSEL: Fast Byzantine SGD", OPODIS 2020.

The margin is missed with the largest minority, by little: the error stays bounded, where that of a majority follows the
attack, but the median then is nearly an extreme of the honest values.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from optax.experimental import aggregating

import optkit
from experiments.claims import Claim, Finding

ROWS, SIZE, SEEDS, STRENGTHS = 21, 100, 8, np.geomspace(1e-2, 1e6, 200)
MINORITIES, MAJORITY = (1, 5, 10), 11
NEAR, FAR = 10, 1e6
ATTACKS = {
    "inner product": optkit.attacks.inner_product_manipulation,
    "ALIE": optkit.attacks.a_little_is_enough,
    "shift": optkit.attacks.shifted_mean,
}


def worst_errors(rule: aggregating.Aggregator, byzantine: int) -> np.ndarray:
    """Gives the largest squared error under any of the attacks at any strength, for each seed.

    Args:
        rule: aggregates the rows.
        byzantine: how many of them attack.

    Returns:
        The errors, over the squared distance of an honest row from the mean of all.
    """

    def one(key):
        honest = 1 + jax.random.normal(key, (ROWS - byzantine, SIZE))
        best = jnp.mean(honest, axis=0)

        def error(attack, strength):
            sent = jnp.broadcast_to(attack(honest, strength), (byzantine, SIZE))
            found: Any = rule.update(jnp.concatenate([honest, sent]), rule.init(best))[0]
            return jnp.sum((found - best) ** 2)

        errors = [jax.vmap(lambda s, a=attack: error(a, s))(jnp.asarray(STRENGTHS)) for attack in ATTACKS.values()]
        return jnp.max(jnp.stack(errors)) / jnp.mean(jnp.sum((honest - best) ** 2, axis=1))

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), SEEDS)), float)


def measure() -> Finding:
    """Attacks with minorities and with a majority, and the mean with one attacker."""
    aksel = {byzantine: worst_errors(optkit.aksel(), byzantine) for byzantine in (*MINORITIES, MAJORITY)}
    mean = worst_errors(aggregating.average_per_element_updates(), MINORITIES[0])
    return Finding(
        "squared error over the variance of a row at most "
        + ", ".join(f"{np.max(errors):.3g} with {byzantine}" for byzantine, errors in aksel.items())
        + f"; the mean with {MINORITIES[0]} {np.max(mean):.2g}",
        max(np.max(aksel[byzantine]) for byzantine in MINORITIES) <= NEAR
        and min(np.min(aksel[MAJORITY]), np.min(mean)) >= FAR,
    )


CLAIM = Claim(
    method="aksel",
    arxiv="",
    statement="The mean of the half of the rows that is nearest to their median (AKSEL, OPODIS 2020) withstands any"
    " minority of attackers, and no rule withstands more.",
    experiment=f"{ROWS} rows of {SIZE} normal numbers of which {', '.join(map(str, MINORITIES))} and {MAJORITY} attack"
    f" by {', '.join(ATTACKS)}, the worst of {len(STRENGTHS)} strengths from {STRENGTHS[0]:g} to {STRENGTHS[-1]:g},"
    f" {SEEDS} seeds: the squared distance from the mean of the honest rows over the variance of one of them.",
    required=f"in each seed at most {NEAR} with each minority, and at least {FAR:g} with the majority and by the mean"
    " with one attacker",
    measure=measure,
)
