"""CDProxSGT converges like DProxSGT though its workers send a part of the entries only."""

import jax
import jax.numpy as jnp
import numpy as np

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.decentralized.composite_optimum import (
    PROX,
    RING,
    SEEDS,
    SIZE,
    WORKERS,
    quadratics,
    trajectory,
)

STEPS, TARGET, DENSITY = 4000, 1e-6, 0.3


def measure() -> Finding:
    """Counts steps to a small residual."""
    compressor = optkit.compressors.top_k(DENSITY)
    steps = {"whole": [], "compressed": []}
    with jax.enable_x64(True):
        for seed in range(SEEDS):
            problem = quadratics(seed)
            rate = 0.1 / problem.smoothness

            def residual(points, problem=problem, rate=rate):
                return problem.residual(points, rate)

            whole = optkit.proximal_gradient_tracking(rate, RING, PROX, axis_name="workers")
            compressed = optkit.compressed_proximal_tracking(rate, RING, PROX, compressor, axis_name="workers")
            for name, tx in (("whole", whole), ("compressed", compressed)):
                below = np.asarray(trajectory(tx, problem, residual, STEPS)) < TARGET
                steps[name].append(int(np.argmax(below)) + 1 if below.any() else STEPS)
    longer = max(b / a for a, b in zip(steps["whole"], steps["compressed"], strict=True))
    share = optkit.compressors.nbytes(compressor, jnp.zeros(SIZE)) / jnp.zeros(SIZE).nbytes
    return Finding(
        f"{steps['compressed']} steps against {steps['whole']}, at most {longer:.2f} times as many, each with"
        f" {share:.2f} times the bytes",
        max(steps["compressed"]) < STEPS and longer <= 2,
    )


CLAIM = Claim(
    method="compressed_proximal_tracking",
    arxiv="2302.14252",
    statement="Compressed messages keep the rate of convergence of DProxSGT.",
    experiment=f"{WORKERS} workers on a ring, a quadratic of {SIZE} coordinates each under an l1 penalty, exact"
    f" gradients, learning rate 0.1 over the largest eigenvalue, {DENSITY:.0%} of the entries sent, gammas 0.5, {SEEDS}"
    f" seeds: steps until the proximal gradient mapping is below {TARGET:g}.",
    required="at most twice the steps",
    measure=measure,
)
