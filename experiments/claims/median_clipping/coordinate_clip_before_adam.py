"""Whether clipping the largest coordinates of the gradient makes SGD and Adam faster."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.sign_momentum import NETWORK, SEEDS, batches, digits_network
from optkit.comparison.statistics import student

BATCH, STEPS = 64, 300
FRACTION = 0.1
RATES = {
    "SGD": (0.1, 0.3, 1.0, 3.0, 10.0),
    "clipped SGD": (0.3, 1.0, 3.0, 10.0, 30.0),
    "Adam": (3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
    "Adam after clipping": (3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
}
BUILDS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "SGD": optax.sgd,
    "clipped SGD": lambda rate: optax.chain(optkit.clip_by_quantile(FRACTION), optax.sgd(rate)),
    "Adam": optax.adam,
    "Adam after clipping": lambda rate: optax.chain(optkit.clip_by_quantile(FRACTION), optax.adam(rate)),
}


def measure() -> Finding:
    """Trains by all four."""
    network = digits_network()
    rows = jnp.asarray(batches(network.examples, BATCH, STEPS))
    keys = jax.random.split(jax.random.key(0), SEEDS)
    losses, said = {}, []
    for name, build in BUILDS.items():

        def train(rate, key, rows, build=build):
            tx = build(optax.linear_schedule(rate, 0.0, STEPS))

            def step(carry, batch):
                params, state = carry
                updates, state = tx.update(jax.grad(network.loss)(params, batch), state, params)
                return (optax.apply_updates(params, updates), state), None

            params = network.init(key)
            (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), rows)
            return network.loss(params, jnp.arange(network.examples))

        over_all = jax.jit(jax.vmap(jax.vmap(train, (None, 0, 0)), (0, None, None)))
        found = np.asarray(over_all(jnp.asarray(RATES[name]), keys, rows))
        best = int(np.nanargmin(np.mean(found, axis=1)))
        losses[name] = found[best]
        said.append(f"{name} {found[best].mean():.2g} (rate {RATES[name][best]:g})")
    holds = True
    for name, other in (("clipped SGD", "SGD"), ("Adam after clipping", "Adam")):
        ratio = student(np.log(losses[name] / losses[other]))
        holds &= ratio.high < 0
        low, mean, high = np.exp([ratio.low, ratio.mean, ratio.high])
        said.append(f"{name} {mean:.2f} [{low:.2f}, {high:.2f}] times {other}")
    return Finding(f"loss: {'; '.join(said)}", bool(holds))


CLAIM = Claim(
    method="clip_by_quantile",
    arxiv="2306.00204",
    statement="Clipping the largest coordinates of the gradient makes SGD and Adam faster.",
    experiment=(
        f"{NETWORK[0].upper()}{NETWORK[1:]}, batches of {BATCH}, {STEPS} steps at a rate that falls linearly to zero,"
        f" the best of {len(RATES['SGD'])} rates each; {FRACTION:.0%} of the coordinates clipped;"
        f" loss of all training examples at the end, {SEEDS} seeds."
    ),
    required=(
        "for both the geometric mean over seeds of the ratio to the loss without clipping, with its 95% interval, below"
        " 1"
    ),
    measure=measure,
)
