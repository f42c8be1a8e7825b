"""How far workers drift apart between two averages, with a slow momentum and with Adam's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding

WORKERS, DIMENSION, EVERY, ROUNDS, RATE, MEAN, SHARE = 8, 100, 32, 16, 1e-3, 0.1, 0.5


def drifts(b1: float, omega: float) -> np.ndarray:
    """Returns how far workers stand from their mean before each average, as a root mean square over entries."""
    tx = optkit.mt_dao(RATE, b1, omega, axis_name="workers", every=EVERY)
    gradients = MEAN + jax.random.normal(jax.random.key(0), (WORKERS, EVERY * ROUNDS, DIMENSION))

    def worker(gradients):
        def step(carry, gradient):
            params, state = carry
            updates, state = tx.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), jax.lax.pmean((params - jax.lax.pmean(params, "workers")) ** 2, "workers")

        start = jnp.zeros(DIMENSION)
        return jax.lax.scan(step, (start, tx.init(start)), gradients)[1]

    squares = jax.jit(jax.vmap(worker, axis_name="workers", out_axes=None))(gradients)
    return np.sqrt(np.mean(squares[EVERY - 2 :: EVERY], axis=1))


def measure() -> Finding:
    """Measures both."""
    slow, fast = drifts(0.999, 0.98), drifts(0.9, 1.0)
    share = np.mean(slow[1:]) / np.mean(fast[1:])
    return Finding(
        f"{share:.2f} times the drift, {slow[0] / fast[0]:.2f} times in the first round and {slow[-1] / fast[-1]:.2f}"
        " times in the last",
        bool(share < SHARE),
    )


CLAIM = Claim(
    method="mt_dao",
    arxiv="2510.05361",
    statement="A slow momentum keeps local workers nearer together than Adam's momentum of 0.9.",
    experiment=f"Gradients with a mean of {MEAN} and noise of standard deviation 1 in each of {DIMENSION} entries,"
    f" {WORKERS} workers, averages every {EVERY} steps, {ROUNDS} rounds, learning rate {RATE:g}: the workers' root mean"
    " square distance from their mean one step before each average, momentum 0.999 with weight 0.98 against 0.9 with"
    " weight 1.",
    required=f"less than {SHARE} times the distance, on average over all rounds but the first",
    measure=measure,
)
