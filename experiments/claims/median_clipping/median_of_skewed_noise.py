"""The bias of medians over workers under skewed noise, and how momentum on the workers takes it away."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.experimental import aggregating

import optkit
from experiments.claims import Claim, Finding

WORKERS, JUMP, CHANCE = 25, 10.0, 0.1
RATE, STEPS, SEEDS = 0.02, 2000, 50
DECAYS = (0.0, 0.99)
RULES = {
    "mean": aggregating.average_per_element_updates(),
    "coordinate median": optkit.coordinate_median(),
    "RFA": optkit.geometric_median(3, 0.1, tolerance=0, start="zeros"),
}


def steady_loss(rule, decay):
    """The loss, mean over seeds and the last fifth, where each worker sends its gradients' average."""
    momentum = optax.ema(decay, debias=False)
    descent = optax.chain(rule, optax.sgd(RATE))

    def run(seed):
        def step(carry, key):
            params, averages, state = carry
            noise = JUMP * jax.random.bernoulli(key, CHANCE, (WORKERS, 1)) - JUMP * CHANCE
            gradients, averages = jax.vmap(momentum.update)(params + noise, averages)
            updates, state = descent.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
            return (params, averages, state), 0.5 * optax.tree.norm(params, squared=True)

        start = jnp.zeros(1)
        averages = jax.vmap(momentum.init)(jnp.zeros((WORKERS, 1)))
        keys = jax.random.split(jax.random.key(seed), STEPS)
        values = jax.lax.scan(step, (start, averages, descent.init(start)), keys)[1]
        return jnp.mean(values[-STEPS // 5 :])

    return float(np.mean(jax.jit(jax.vmap(run))(jnp.arange(SEEDS))))


def measure():
    """Runs all rules with both momenta."""
    scores = {name: [steady_loss(rule, decay) for decay in DECAYS] for name, rule in RULES.items()}
    medians = np.array([scores[name] for name in RULES if name != "mean"])
    without, with_momentum = (medians / np.array(scores["mean"])).T
    listed = ", ".join(f"{name} {plain:.2g} and {slow:.2g}" for name, (plain, slow) in scores.items())
    holds = np.all(without > 100) and np.all((with_momentum > 0.5) & (with_momentum < 2))
    return Finding(f"loss without momentum and with: {listed}", bool(holds))


CLAIM = Claim(
    method="coordinate_median",
    arxiv="2012.10333",
    statement="The median of skewed noise is not its mean: medians over workers converge elsewhere, unless the workers "
    "average their gradients over time first.",
    experiment=f"f(x) = x^2 / 2, {WORKERS} workers whose noise is {JUMP:g} with probability {CHANCE} (less its mean), "
    f"rate {RATE}, {STEPS} steps, loss of the last fifth, mean of {SEEDS} seeds; workers' momentum "
    f"{' and '.join(f'{decay:g}' for decay in DECAYS)}.",
    required="without momentum a loss above 100 times that of the mean; with it, within a factor of 2",
    measure=measure,
)
