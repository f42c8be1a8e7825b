"""Over noisy channels cumulative tracking with falling rates converges where plain gradient tracking diverges."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.decentralized.composite_optimum import RING, SEEDS, SIZE, WORKERS, quadratics, trajectory

NOISE, CHECKPOINTS = 0.2, (300, 3000, 30_000)


def falling(step: Any) -> Any:
    """The weight of what neighbours say."""
    return 1 / (1 + step / 5)


def measure() -> Finding:
    """Takes the mean squared error of all workers' coordinates at three times."""
    errors = {"robust": [], "plain": []}
    with jax.enable_x64(True):
        for seed in range(SEEDS):
            problem = quadratics(seed)
            minimum = np.linalg.solve(problem.matrices.mean(axis=0), problem.vectors.mean(axis=0))
            channel = optkit.noisy_mix(NOISE, key=seed)
            methods = {
                "robust": optkit.noise_robust_gradient_tracking(
                    lambda step: 0.5 * falling(step), RING, axis_name="workers", gamma=falling, mixing=channel
                ),
                "plain": optkit.proximal_gradient_tracking(
                    0.1 / problem.smoothness, RING, optkit.prox.l1(0.0), axis_name="workers", mixing=channel
                ),
            }
            for name, tx in methods.items():
                squares = trajectory(tx, problem, lambda x, best=minimum: jnp.mean((x - best) ** 2), CHECKPOINTS[-1])
                errors[name].append([float(squares[step - 1]) for step in CHECKPOINTS])
    robust, plain = np.mean(errors["robust"], axis=0), np.mean(errors["plain"], axis=0)
    return Finding(
        f"after {', '.join(f'{step:,}' for step in CHECKPOINTS)} steps {', '.join(f'{error:.1e}' for error in robust)};"
        f" plain gradient tracking {', '.join(f'{error:.2g}' for error in plain)}",
        bool(robust[1] < 1e-3 and robust[1] < robust[0] / 5 and plain[2] > plain[1] > plain[0]),
    )


CLAIM = Claim(
    method="noise_robust_gradient_tracking",
    arxiv="2210.00551",
    statement="Tracking the sum of gradients and listening less and less, workers converge over noisy channels; with"
    " plain gradient tracking the noise adds up.",
    experiment=f"{WORKERS} workers on a ring, a quadratic of {SIZE} coordinates each, exact gradients, noise of"
    f" deviation {NOISE} on every number heard, gamma 1/(1 + k/5) and half of it as learning rate, {SEEDS} seeds: the"
    " mean squared error of a coordinate; plain tracking with 0.1 over the largest eigenvalue as learning rate.",
    required="below 1e-3 and a fifth of that after 300 steps after 3,000 steps; plain tracking's grows throughout",
    measure=measure,
)
