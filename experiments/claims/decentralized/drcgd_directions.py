"""DRCGD: whether conjugate directions find principal components faster than the plain projected gradient."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.claims import Claim, Finding
from optkit.decentralized import drcgd
from optkit.decentralized.topology import ring

WORKERS, DIMENSION, RANK, EXAMPLES, STEPS, SEEDS, RATE = 8, 10, 3, 100, 300, 3, 0.05


def draw_problem(seed):
    """Draws the workers' covariances, and one start for all."""
    rng = np.random.default_rng(seed)
    scales = 0.8 ** np.arange(DIMENSION)
    data = rng.standard_normal((WORKERS, EXAMPLES, DIMENSION)) * scales
    start = np.linalg.qr(rng.standard_normal((DIMENSION, RANK)))[0]
    return (data.swapaxes(1, 2) @ data / EXAMPLES).astype(np.float32), start.astype(np.float32)


def run(beta):
    """The subspace error at the end of each run, and how far any step ended from the manifold."""
    tx = drcgd(lambda count: RATE / jnp.sqrt(count + 1.0), ring(WORKERS), axis_name="workers", beta=beta)

    def train(covariance, start):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(-covariance @ params, state, params)
            params: Any = optax.apply_updates(params, updates)
            return (params, state), jnp.max(jnp.abs(params.T @ params - jnp.eye(RANK)))

        (params, _), distances = jax.lax.scan(step, (start, tx.init(start)), length=STEPS)
        return params, jnp.max(distances)

    covariances, starts = map(np.stack, zip(*map(draw_problem, range(SEEDS)), strict=True))
    over_workers = jax.vmap(train, (0, None), axis_name="workers")
    params, distances = jax.jit(jax.vmap(over_workers))(covariances, starts)
    best = np.linalg.eigh(covariances.mean(axis=1))[1][..., -RANK:]
    apart = np.asarray(params @ params.mT) - (best @ best.swapaxes(1, 2))[:, None]
    return np.linalg.norm(apart, axis=(2, 3)).mean(axis=1), float(jnp.max(distances))


def measure():
    """Compares both directions."""
    conjugate, first = run("fletcher_reeves")
    plain, second = run("zero")
    errors = ", ".join(f"{c:.2g} against {p:.2g}" for c, p in zip(conjugate, plain, strict=True))
    return Finding(f"subspace error {errors}; at most {max(first, second):.0e} off the manifold", None)


CLAIM = Claim(
    method="drcgd",
    arxiv="2308.10547",
    statement="Conjugate directions find the principal components faster than the plain projected gradient.",
    experiment=f"Principal components of rank {RANK} in {DIMENSION} dimensions, a ring of {WORKERS} workers with"
    f" {EXAMPLES} examples each, rate {RATE} / sqrt(k + 1), {STEPS} steps, {SEEDS} seeds, Fletcher-Reeves against"
    " zero.",
    required="reported as found",
    measure=measure,
)
