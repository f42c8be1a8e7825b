"""AGVM's factor on a module that is noisier than the reference."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding

DIMENSIONS, STEPS, DECAY = 5000, 100, 0.97
NOISE = {"backbone": 0.5, "head": 1.0}  # power of a half batch's noise, that of the signal being 1
EXPECTED = np.sqrt((0.5 / 1.5) / (1.0 / 2.0))


def factors(decay: float, steps: int) -> np.ndarray:
    """The head's factor after each step."""
    names = {name: name for name in NOISE}
    tx: Any = optkit.agvm(optax.sgd(0.1), names, "backbone", start=0, interval=1, decay=decay)
    params = {name: jnp.zeros(DIMENSIONS) for name in NOISE}

    def step(state, key):
        halves = {
            name: 1 + jnp.sqrt(power) * jax.random.normal(key, (2, DIMENSIONS))
            for (name, power), key in zip(NOISE.items(), jax.random.split(key), strict=True)
        }
        state = tx.update(halves, state, params)[1]
        return state, state.scales[sorted(NOISE).index("head")]

    return np.asarray(jax.lax.scan(step, tx.init(params), jax.random.split(jax.random.key(0), steps))[1])


def measure() -> Finding:
    """Runs with and without an average over the steps."""
    (first,) = factors(0.0, 1)
    averaged = factors(DECAY, STEPS)
    predicted = EXPECTED + DECAY ** np.arange(1, 1 + STEPS) * (1 - EXPECTED)
    error = float(np.max(np.abs(averaged / predicted - 1)))
    return Finding(
        f"{first:.3f} in one step where {EXPECTED:.3f} is expected; averaged over steps, at most {100 * error:.1f}% off"
        f" its geometric approach in {STEPS} steps",
        bool(abs(first / EXPECTED - 1) < 0.05 and error < 0.05),
    )


CLAIM = Claim(
    method="agvm",
    arxiv="2210.11078",
    statement="A module's factor becomes the root of the reference's noise over its own.",
    experiment=f"Two modules of {DIMENSIONS} parameters, noise of half the signal's power in the reference's half"
    f" batches and of equal power in the other's; interval 1, decay {DECAY}.",
    required=f"one step's factor within 5% of {EXPECTED:.3f}, each averaged one within 5% of its geometric approach",
    measure=measure,
)
