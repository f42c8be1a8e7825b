"""With noisy gradients CDProxSGT stays farther from the minimum than DProxSGT, unless there is no penalty.

Before the proximal map estimates of the mean gradient are averaged less than without compression, and noise moves
entries past its threshold. On smooth losses it does not matter.
"""

import jax
import jax.numpy as jnp

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.decentralized.composite_optimum import (
    RING,
    SEEDS,
    SIZE,
    WEIGHT,
    WORKERS,
    quadratics,
    trajectory,
)

STEPS, DENSITY = 4000, 0.3


def ratios(weight: float) -> list[float]:
    """Divides the mean squared residual of CDProxSGT by that of DProxSGT, for each seed."""
    prox, found = optkit.prox.l1(weight), []
    for seed in range(SEEDS):
        problem = quadratics(seed)
        rate = 0.1 / problem.smoothness
        noise = jax.random.normal(jax.random.key(seed), (STEPS, WORKERS, SIZE))
        whole = optkit.proximal_gradient_tracking(rate, RING, prox, axis_name="workers")
        compressed = optkit.compressed_proximal_tracking(
            rate, RING, prox, optkit.compressors.top_k(DENSITY), axis_name="workers"
        )

        def residual(points, problem=problem, rate=rate):
            return problem.residual(points, rate, prox)

        squares = [trajectory(tx, problem, residual, STEPS, noise)[STEPS // 2 :] ** 2 for tx in (whole, compressed)]
        found.append(float(jnp.mean(squares[1]) / jnp.mean(squares[0])))
    return found


def measure() -> Finding:
    """Compares what noise leaves, with and without a penalty."""
    with jax.enable_x64(True):
        penalized, smooth = ratios(WEIGHT), ratios(0.0)
    return Finding(
        f"{min(penalized):.2f} to {max(penalized):.2f} times; without a penalty {min(smooth):.2f} to"
        f" {max(smooth):.2f} times",
        max(penalized) <= 1.5,
    )


CLAIM = Claim(
    method="compressed_proximal_tracking",
    arxiv="2302.14252",
    statement="Compressed messages do not matter beside the noise of gradients.",
    experiment=f"{WORKERS} workers on a ring, a quadratic of {SIZE} coordinates each, an l1 penalty of {WEIGHT} or"
    " none, gradients with noise of deviation 1, learning rate 0.1 over the largest eigenvalue,"
    f" {DENSITY:.0%} of the entries sent, gammas 0.5, {SEEDS} seeds: the mean square of the proximal gradient mapping"
    f" over the second half of {STEPS} steps, over that of DProxSGT.",
    required="at most 1.5 times under the penalty",
    measure=measure,
)
