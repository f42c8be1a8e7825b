"""MoNNA against averaging all parameters, with two of eight workers attacking."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding
from optkit.comparison import statistics

SIZE, NOISE, WORKERS, BYZANTINE = 30, 1.0, 8, 2
RATE, DECAY, STEPS, SEEDS = 0.1, 0.99, 1000, 8
OVERHEAD, SPOILT = 1 + BYZANTINE, 10
ATTACKS = {
    "none": None,
    "sign flip": optkit.attacks.sign_flip,
    "ALIE": lambda honest: optkit.attacks.a_little_is_enough(honest, 1.5),
    "inner product": lambda honest: optkit.attacks.inner_product_manipulation(
        honest, (WORKERS - BYZANTINE) / BYZANTINE
    ),
    "NaN": optkit.attacks.send_nan,
}


def error(mixing, attack):
    """The squared distance of the honest workers' mean from the minimum of their losses at the end, for each seed."""
    mixing = mixing if attack is None else optkit.attacks.attacked_mix(mixing, attack, BYZANTINE)
    tx = optkit.monna(RATE, optkit.topology.complete(WORKERS), BYZANTINE, DECAY, axis_name="workers", mixing=mixing)

    def train(key):
        def step(carry, key):
            params, state = carry
            gradient = params - 1 + NOISE * jax.random.normal(key, (SIZE,))
            updates, state = tx.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        start = jnp.zeros(SIZE)
        return jax.lax.scan(step, (start, tx.init(start)), jax.random.split(key, STEPS))[0][0]

    def run(seed):
        keys = jax.random.split(jax.random.key(seed), WORKERS)
        params = jax.vmap(train, axis_name="workers")(keys)
        honest = jnp.asarray(params)[:-BYZANTINE]
        return jnp.sum((jnp.mean(honest, axis=0) - 1) ** 2)

    return np.asarray(jax.jit(jax.vmap(run))(jnp.arange(SEEDS)))


def measure():
    """Runs both mixings under all attacks."""
    rules = {"averaging": optkit.mix, "MoNNA": None}
    robust = optkit.robust_mix(optkit.nearest_neighbor_average(BYZANTINE))
    scores = {
        name: {attack: error(mixing or robust, function) for attack, function in ATTACKS.items()}
        for name, mixing in rules.items()
    }
    unspoilt = scores["averaging"]["none"]
    # Paired over seeds: how far MoNNA's error is above what the overhead allows, and averaging's above its own tenfold.
    above = {a: statistics.student(x - OVERHEAD * unspoilt).high for a, x in scores["MoNNA"].items()}
    below = [statistics.student(scores["averaging"][a] - SPOILT * unspoilt).low for a in ("sign flip", "inner product")]
    texts = (
        f"{name}: {', '.join(f'{a} {np.mean(x):.2g}' for a, x in values.items())}" for name, values in scores.items()
    )
    return Finding("squared error under " + "; ".join(texts), bool(max(above.values()) < 0 < min(below)))


CLAIM = Claim(
    method="monna",
    arxiv="2209.10931",
    statement="Averaging the parameters nearest to a worker's own withstands attackers that spoil plain averaging, at a"
    " price in gradients, or in variance, that is linear in their number.",
    experiment=f"f(x) = |x - 1|^2 / 2 with {SIZE} parameters, {WORKERS} workers of whom {BYZANTINE} attack the exchange"
    f", noise of deviation {NOISE:g}, rate {RATE}, momentum {DECAY}, {STEPS} steps from zero, {SEEDS} seeds.",
    required=f"under each attack less than 1 + {BYZANTINE} times the error of averaging without attackers; averaging"
    f" under sign flip and inner product more than {SPOILT} times (paired 95% intervals)",
    measure=measure,
)
