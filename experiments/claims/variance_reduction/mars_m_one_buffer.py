"""MARS-M without clipping needs one buffer a matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding

STEPS = 50
SHAPE = (12, 16)
REQUIRED = 1e-12


def measure() -> Finding:
    """Takes steps on the same gradients with one buffer and with two."""
    with jax.enable_x64(True):
        gradients = jnp.asarray(np.random.default_rng(0).standard_normal((STEPS, *SHAPE)))
        params = jnp.zeros(SHAPE)
        # A schedule of gamma, even a constant one, leaves nothing but two buffers.
        unclipped = optkit.MarsCorrection(max_norm=None)
        one = optkit.mars_m(1e-2, correction=unclipped)
        two = optkit.mars_m(1e-2, gamma=optax.constant_schedule(0.025), correction=unclipped)
        difference = float(jnp.max(jnp.abs(_run(one, params, gradients) - _run(two, params, gradients))))
        bytes_of_one, bytes_of_two = (optkit.cost(tx, params, state_only=True).state_bytes for tx in (one, two))
    return Finding(
        measured=f"largest difference {difference:.1e}, with {bytes_of_one} against {bytes_of_two} bytes of state",
        holds=difference <= REQUIRED and bytes_of_one < bytes_of_two,
    )


def _run(tx, params, gradients):
    """All parameters on the way."""

    def step(carry, gradient):
        params, state = carry
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.jit(lambda carry: jax.lax.scan(step, carry, gradients)[1])((params, tx.init(params)))


CLAIM = Claim(
    method="mars_m",
    arxiv="2510.21800",
    statement="Approximate MARS-M without clipping has a form with one buffer, which gives the same numbers.",
    experiment=f"{STEPS} steps on Gaussian gradients of a {SHAPE[0]} x {SHAPE[1]} matrix in double precision.",
    required=f"parameters equal to {REQUIRED:g} after every step, with less state",
    measure=measure,
)
