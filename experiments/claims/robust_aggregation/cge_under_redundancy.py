"""CGE finds the exact solution of regressions that all honest workers share, whatever a few others send."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.experimental import aggregating

import optkit
from experiments.claims import Claim, Finding

WORKERS, BYZANTINE, SIZE, EXAMPLES, RATE, STEPS, SEEDS = 20, 2, 5, 20, 0.1, 3000, 8
NEAR, FAR = 1e-12, 1e-2
ATTACKS = {
    "sign flip": optkit.attacks.sign_flip,
    "reversed and long": lambda honest: optkit.attacks.inner_product_manipulation(honest, 10.0),
    "as long as kept": lambda honest: optkit.attacks.long_among_kept(honest, BYZANTINE),
    "far shift": lambda honest: optkit.attacks.shifted_mean(honest, 10.0),
}


def worst_distance(rule, attack) -> tuple[float, float]:
    """Trains by gradient descent; gives the smallest and largest squared distance from the solution over the seeds."""

    def run(key):
        feature_key, solution_key = jax.random.split(key)
        features = jax.random.normal(feature_key, (WORKERS, EXAMPLES, SIZE)) / EXAMPLES**0.5
        solution = jax.random.normal(solution_key, (SIZE,))
        attacked = optkit.attacks.under_attack(attack, BYZANTINE)
        tx = optax.chain(attacked, rule, optax.scale_by_learning_rate(RATE))

        def step(carry, _):
            params, state = carry
            gradients = jnp.einsum("wei,wej,j->wi", features, features, params - solution)
            updates, state = tx.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), None

        start = jnp.zeros(SIZE)
        params: Any = jax.lax.scan(step, (start, tx.init(start)), length=STEPS)[0][0]
        return jnp.sum((params - solution) ** 2)

    distances = np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), SEEDS)))
    return float(np.min(distances)), float(np.max(distances))


def measure() -> Finding:
    """Trains under each attack, and by the mean under a shift."""
    with jax.enable_x64(True):
        found = {name: worst_distance(optkit.cge(BYZANTINE), attack)[1] for name, attack in ATTACKS.items()}
        mean = worst_distance(aggregating.average_per_element_updates(), ATTACKS["far shift"])[0]
    return Finding(
        f"at most {', '.join(f'{distance:.1e} under {name}' for name, distance in found.items())}; the mean under the"
        f" far shift at least {mean:.1e}",
        max(found.values()) <= NEAR and mean >= FAR,
    )


CLAIM = Claim(
    method="cge",
    arxiv="2008.04699",
    statement="Where any n - 2 f workers determine the solution (redundancy), gradient descent without the f longest"
    " gradients reaches it exactly.",
    experiment=f"Linear regression without noise, {SIZE} parameters, {WORKERS} workers with {EXAMPLES} examples of whom"
    f" {BYZANTINE} attack, rate {RATE}, {STEPS:,} steps, {SEEDS} seeds, float64; {', '.join(ATTACKS)}.",
    required=f"squared distance from the solution at most {NEAR:g} for each seed and attack, at least {FAR:g} by the"
    " mean",
    measure=measure,
)
