"""With noisy gradients CDProxSGT stays farther from the minimum than DProxSGT, unless there is no penalty.

Before the proximal map estimates of the mean gradient are averaged less than without compression, and noise moves
entries past its threshold. On smooth losses it does not matter.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.decentralized.composite_optimum import (
    RING,
    SIZE,
    WEIGHT,
    WORKERS,
    Quadratics,
    quadratics,
    trajectory,
)
from optkit.comparison import statistics

STEPS, DENSITY, SEEDS = 4000, 0.3, 8
COMPRESSORS = {"top_k": optkit.compressors.top_k(DENSITY), "identity": optkit.compressors.identity()}


def remaining(weight: float) -> dict[str, np.ndarray]:
    """Gives the mean squared residual of DProxSGT, and of CDProxSGT with each compressor, for each seed."""
    prox, drawn = optkit.prox.l1(weight), [quadratics(seed) for seed in range(SEEDS)]
    problems = Quadratics(*(jnp.asarray(np.stack(parts)) for parts in zip(*drawn, strict=True)))
    rates = jnp.asarray([0.1 / problem.smoothness for problem in drawn])

    def whole(rate):
        return optkit.proximal_gradient_tracking(rate, RING, prox, axis_name="workers")

    def compressed(compressor):
        return lambda rate: optkit.compressed_proximal_tracking(rate, RING, prox, compressor, axis_name="workers")

    def mean_square(build, problem, rate, seed):
        noise = jax.random.normal(jax.random.key(seed), (STEPS, WORKERS, SIZE))
        residuals = trajectory(build(rate), problem, lambda points: problem.residual(points, rate, prox), STEPS, noise)
        return jnp.mean(residuals[STEPS // 2 :] ** 2)

    methods = {"whole": whole} | {name: compressed(compressor) for name, compressor in COMPRESSORS.items()}
    return {
        name: np.asarray(jax.vmap(functools.partial(mean_square, build))(problems, rates, jnp.arange(SEEDS)))
        for name, build in methods.items()
    }


def interval(above: np.ndarray, below: np.ndarray) -> statistics.Estimate:
    """Estimates by how many times one is larger, as the geometric mean over seeds."""
    found = statistics.student(np.log(above / below))
    return statistics.Estimate(*np.exp(found[:3]), p=found.p)


def measure() -> Finding:
    """Compares what noise leaves, with and without a penalty."""
    with jax.enable_x64(True):
        penalized, smooth = remaining(WEIGHT), remaining(0.0)
    ratio, alone, beside = (
        interval(penalized[above], penalized[below])
        for above, below in (("top_k", "whole"), ("identity", "whole"), ("top_k", "identity"))
    )
    without = interval(smooth["top_k"], smooth["whole"])
    return Finding(
        f"{ratio.mean:.2f} times ({ratio.low:.2f} to {ratio.high:.2f}); of which the step towards neighbours, with no"
        f" compression, {alone.mean:.2f} times ({alone.low:.2f} to {alone.high:.2f}), and compression beside it"
        f" {beside.mean:.2f} times ({beside.low:.2f} to {beside.high:.2f}); without a penalty {without.mean:.2f} times",
        bool(ratio.high <= 1.5),
    )


CLAIM = Claim(
    method="compressed_proximal_tracking",
    arxiv="2302.14252",
    statement="Compressed messages do not matter beside the noise of gradients.",
    experiment=f"{WORKERS} workers on a ring, a quadratic of {SIZE} coordinates each, an l1 penalty of {WEIGHT} or"
    " none, gradients with noise of deviation 1, learning rate 0.1 over the largest eigenvalue,"
    f" {DENSITY:.0%} of the entries sent, gammas 0.5, {SEEDS} seeds: the mean square of the proximal gradient mapping"
    f" over the second half of {STEPS} steps, over that of DProxSGT; the same with whole messages (identity).",
    required="at most 1.5 times under the penalty (upper end of the paired 95% interval)",
    measure=measure,
)
