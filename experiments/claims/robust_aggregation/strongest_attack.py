"""The line search for the strength of an attack against trying out hundreds of strengths."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import optkit
from experiments.claims import Claim, Finding

ROWS, SIZE, BYZANTINE, SEEDS, SHARE = 20, 50, 4, 8, 0.9
STRENGTHS = np.concatenate([[0.0], np.geomspace(1e-2, 1e3, 400)])
ATTACKS = {
    "ALIE": optkit.attacks.a_little_is_enough,
    "inner product": optkit.attacks.inner_product_manipulation,
}
RULES = {
    "trimmed mean": optkit.trimmed_mean(BYZANTINE),
    "coordinate median": optkit.coordinate_median(),
    "Krum": optkit.krum(BYZANTINE),
    "MeaMed": optkit.meamed(BYZANTINE),
    "Aksel": optkit.aksel(),
    "CGE": optkit.cge(BYZANTINE),
}


def share_found(rule: Any, attack: Any) -> np.ndarray:
    """Gives the damage of the strength that is found over that of the worst of all that are tried, for each seed."""

    def one(key):
        honest = 1 + jax.random.normal(key, (ROWS - BYZANTINE, SIZE))
        mean = jnp.mean(honest, axis=0)

        def damage(strength):
            sent = jnp.broadcast_to(attack(honest, strength), (BYZANTINE, SIZE))
            found: Any = rule.update(jnp.concatenate([honest, sent]), rule.init(mean))[0]
            return jnp.linalg.norm(found - mean)

        found = damage(optkit.attacks.strongest(attack, honest, BYZANTINE, rule))
        return found / jnp.max(jax.vmap(damage)(jnp.asarray(STRENGTHS)))

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), SEEDS)), float)


def measure() -> Finding:
    """Searches against all rules with both attacks."""
    shares = {
        f"{name} against {rule}": np.mean(share_found(build, attack))
        for name, attack in ATTACKS.items()
        for rule, build in RULES.items()
    }
    return Finding(
        "of the damage of the worst strength: " + ", ".join(f"{case} {share:.2f}" for case, share in shares.items()),
        bool(min(shares.values()) >= SHARE),
    )


CLAIM = Claim(
    method="attacks.strongest",
    arxiv="",
    statement="A line search of 16 evaluations finds the strength at which an attack harms a rule most.",
    experiment=f"{ROWS} rows of {SIZE} normal numbers of which {BYZANTINE} attack, {len(STRENGTHS)} strengths from 0 to"
    f" {STRENGTHS[-1]:g} tried one by one, {SEEDS} seeds: the damage at the strength that is found, the distance from"
    " the mean of the honest rows, over the largest of all.",
    required=f"at least {SHARE:g} for each attack and rule, mean over the seeds",
    measure=measure,
)
