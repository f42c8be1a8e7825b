"""Claims about compressed communication, and the workers' quadratics that some of them are measured on."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from optkit.typing import Feedback

WORKERS, DIMENSION, DENSITY, STATED = 10, 50, 0.1, "spectrum from 0.1 to 1, linear parts drawn from N(0, 9)"


def squared_gradients(
    rule: Feedback | None, *, rate: float, steps: int, noise: float, density: float = DENSITY, seed: int = 0
) -> np.ndarray:
    """Descends on quadratics that differ between workers, by means of their largest entries.

    Args:
        rule: the feedback; None sends gradients as they are, not compressed.
        rate: the learning rate.
        steps: their number.
        noise: standard deviation of the noise in each entry of a gradient.
        density: share of the entries that are sent.
        seed: of the quadratics and the noise.

    Returns:
        The squared norm of the gradient of the mean of all quadratics, before every step.
    """
    random = np.random.default_rng(seed)
    bases, _ = np.linalg.qr(random.standard_normal((WORKERS, DIMENSION, DIMENSION)))
    curvature = np.geomspace(0.1, 1, DIMENSION)
    hessians = jnp.asarray((bases * curvature) @ bases.mT)
    slopes = jnp.asarray(3 * random.standard_normal((WORKERS, DIMENSION)))
    compressor = optkit.compressors.identity() if rule is None else optkit.compressors.top_k(density)
    tx = optax.chain(optkit.compressed_mean(compressor, rule, axis_name="workers"), optax.sgd(rate))

    def worker(hessian, slope, key):
        def step(carry, key):
            x, state = carry
            gradient = hessian @ x - slope
            norm = jnp.sum(jax.lax.pmean(gradient, "workers") ** 2)
            updates, state = tx.update(gradient + noise * jax.random.normal(key, x.shape), state)
            return (optax.apply_updates(x, updates), state), norm

        start = jnp.zeros(DIMENSION)
        return jax.lax.scan(step, (start, tx.init(start)), jax.random.split(key, steps))[1]

    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(seed), WORKERS)
        return np.asarray(over_workers(worker)(hessians, slopes, keys))


def over_workers(worker: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles what each worker does, whose result is equal on all."""
    return jax.jit(jax.vmap(worker, axis_name="workers", out_axes=None))
