"""ProxSkip against local steps alone, where the minima of the workers differ."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding

WORKERS, DIMENSION, STEPS, RATE, EVERY, REQUIRED = 8, 20, 3000, 1.0, 4, 1e-8
STRENGTH = 3


def distance(tx: optax.GradientTransformation) -> float:
    """Returns how far the workers' mean stands from the minimum of the mean loss at the end."""
    random = np.random.default_rng(0)
    bases, _ = np.linalg.qr(random.standard_normal((WORKERS, DIMENSION, DIMENSION)))
    hessians = jnp.asarray((bases * np.geomspace(0.1, 1, DIMENSION)) @ bases.mT)
    slopes = jnp.asarray(STRENGTH * random.standard_normal((WORKERS, DIMENSION)))
    minimum = jnp.linalg.solve(jnp.mean(hessians, axis=0), jnp.mean(slopes, axis=0))

    def worker(hessian, slope):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(hessian @ params - slope, state, params)
            return (optax.apply_updates(params, updates), state), None

        start = jnp.zeros(DIMENSION)
        params = jax.lax.scan(step, (start, tx.init(start)), length=STEPS)[0][0]
        return jax.lax.pmean(params, "workers")

    found = jax.jit(jax.vmap(worker, axis_name="workers", out_axes=None))(hessians, slopes)
    return float(jnp.linalg.norm(found - minimum) / jnp.linalg.norm(minimum))


def measure() -> Finding:
    """Descends with both."""
    with jax.enable_x64(True):
        ours = distance(optkit.proxskip(RATE, 1 / EVERY, axis_name="workers"))
        theirs = distance(optkit.local_sgd(RATE, EVERY, axis_name="workers"))
    return Finding(f"{ours:.1e} against {theirs:.2g} times the distance at the start", ours <= REQUIRED * theirs)


CLAIM = Claim(
    method="proxskip",
    arxiv="2202.09357",
    statement="With exact gradients ProxSkip reaches the minimum although workers differ, where local steps alone stop"
    " at a distance.",
    experiment=f"Quadratics that differ between {WORKERS} workers, {DIMENSION} dimensions, spectrum from 0.1 to 1,"
    f" linear parts drawn from N(0, {STRENGTH**2}), exact gradients, a rate of {RATE:g}, {STEPS} steps; an exchange"
    f" with probability 1/{EVERY} against a mean every {EVERY} steps: the distance of the workers' mean from the"
    " minimum.",
    required=f"at most {REQUIRED:g} times",
    measure=measure,
)
