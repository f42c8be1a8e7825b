"""Nearest-neighbor mixing brings the median's error under the bound that falls with the share of attackers."""

import jax
import jax.numpy as jnp
import numpy as np

import optkit
from experiments.claims import Claim, Finding
from optkit.comparison import statistics

ROWS, SIZE, SEEDS, ATTACKERS, BETTER = 40, 50, 8, (1, 2, 4, 8), 0.5
ATTACKS = {
    "sign flip": optkit.attacks.sign_flip,
    "inner product": lambda honest: optkit.attacks.inner_product_manipulation(honest, 10.0),
    "ALIE": lambda honest: optkit.attacks.a_little_is_enough(honest, 1.5),
    "mimic": optkit.attacks.mimic,
}


def bound(byzantine: int) -> float:
    """The paper's 8 f / (n - f) (1 + kappa) with the kappa of the coordinate-wise median."""
    kappa = 4 * (1 + byzantine / (ROWS - 2 * byzantine)) ** 2
    return 8 * byzantine / (ROWS - byzantine) * (1 + kappa)


def worst_errors(byzantine: int) -> tuple[np.ndarray, np.ndarray]:
    """Gives the largest squared error under any of the attacks over the honest rows' variance, for each seed.

    Args:
        byzantine: how many rows attack.

    Returns:
        That of the median behind the mixing, and by itself.
    """
    median = optkit.coordinate_median()
    rules = optkit.nearest_neighbor_mixing(median, byzantine), median

    def one(key):
        honest = jax.random.exponential(key, (ROWS - byzantine, SIZE))  # their median is not their mean
        best = jnp.mean(honest, axis=0)
        variance = jnp.mean(jnp.sum((honest - best) ** 2, axis=1))

        def error(rule, attack):
            sent = jnp.broadcast_to(attack(honest), (byzantine, SIZE))
            found, _ = rule.update(jnp.concatenate([honest, sent]), rule.init(best))
            return jnp.sum((found - best) ** 2) / variance

        return tuple(jnp.max(jnp.stack([error(rule, attack) for attack in ATTACKS.values()])) for rule in rules)

    mixed, bare = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), SEEDS))
    return np.asarray(mixed, float), np.asarray(bare, float)


def measure() -> Finding:
    """Compares the median behind the mixing with its bound and with the median by itself."""
    found = {f: worst_errors(f) for f in ATTACKERS}
    ratios = {f: statistics.student(mixed / bare) for f, (mixed, bare) in found.items()}
    texts = (
        f"{np.mean(mixed):.4f} against {np.mean(bare):.3f} with {f} (bound {bound(f):.2f})"
        for f, (mixed, bare) in found.items()
    )
    return Finding(
        f"squared error over the variance {', '.join(texts)}",
        all(np.max(mixed) <= bound(f) for f, (mixed, _) in found.items()) and ratios[ATTACKERS[0]].high <= BETTER,
    )


CLAIM = Claim(
    method="nearest_neighbor_mixing",
    arxiv="2302.01772",
    statement="Behind nearest-neighbor mixing the squared error of the median under attack is of the order of f / n"
    " times the variance between honest workers, though by itself it is off where their data differ.",
    experiment=f"{ROWS} rows of {SIZE} exponentially distributed numbers of which {', '.join(map(str, ATTACKERS))}"
    f" attack, the worst of {', '.join(ATTACKS)}, {SEEDS} seeds: the squared distance of the coordinate-wise median"
    " from the mean of the honest rows.",
    required=f"never above the paper's bound; with one attacker at most {BETTER} times that without the mixing (paired"
    " 95% interval)",
    measure=measure,
)
