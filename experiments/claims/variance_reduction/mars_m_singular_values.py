"""Five Newton-Schulz steps bring singular values near one."""

import jax
import jax.numpy as jnp
import numpy as np

import optkit
from experiments.claims import Claim, Finding

DRAWS = 200
SHAPE = (12, 16)
LOWEST, HIGHEST = 0.6, 1.25


def measure() -> Finding:
    """Takes first steps on random gradients."""
    scale = 0.2 * max(SHAPE) ** 0.5
    tx = optkit.mars_m(1 / scale, weight_decay=0.0)
    gradients = jax.random.normal(jax.random.key(0), (DRAWS, *SHAPE))

    def singular_values(gradient):
        update, _ = tx.update(gradient, tx.init(gradient), jnp.zeros(SHAPE))
        return jnp.linalg.svd(jnp.asarray(update), compute_uv=False)

    values = np.asarray(jax.jit(jax.vmap(singular_values))(gradients))
    return Finding(
        measured=f"between {values.min():.2f} and {values.max():.2f}",
        holds=bool(values.min() >= LOWEST and values.max() <= HIGHEST),
    )


CLAIM = Claim(
    method="mars_m",
    arxiv="2510.21800",
    statement="Five steps of Newton-Schulz give a matrix's update singular values near one, in units of its scale.",
    experiment=f"First steps of MARS-M on {DRAWS} Gaussian gradients of a {SHAPE[0]} x {SHAPE[1]} matrix in float32.",
    required=f"all between {LOWEST:g} and {HIGHEST:g}",
    measure=measure,
)
