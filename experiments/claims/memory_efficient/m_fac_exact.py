"""M-FAC's product with the inverse Fisher matrix of its window."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims import Claim, Finding
from optkit.memory_efficient import scale_by_m_fac

SIZE, WINDOW, STEPS, SEEDS, DAMPING, REQUIRED = 200, 32, 80, 8, 1e-2, 1e-3


def measure() -> Finding:
    """Compares all steps with a dense solve."""
    grads = np.random.default_rng(0).standard_normal((SEEDS, STEPS, SIZE)).astype(np.float32)
    found = np.asarray(jax.jit(jax.vmap(updates))(jnp.asarray(grads)), float)
    worst = 0.0
    for seed in range(SEEDS):
        for step in range(STEPS):
            kept = grads[seed, max(0, step + 1 - WINDOW) : step + 1].astype(float)
            fisher = DAMPING * np.eye(SIZE) + kept.T @ kept / WINDOW
            exact = np.linalg.solve(fisher, kept[-1])
            worst = max(worst, float(np.linalg.norm(found[seed, step] - exact) / np.linalg.norm(exact)))
    return Finding(f"a relative error of at most {worst:.1e}", worst <= REQUIRED)


def updates(grads: jax.Array) -> jax.Array:
    """Returns what M-FAC makes of the gradients of all steps, without forming the matrix."""
    tx = scale_by_m_fac(WINDOW, DAMPING)

    def step(state, grad):
        update, state = tx.update(grad, state)
        return state, update

    return jnp.asarray(jax.lax.scan(step, tx.init(grads[0]), grads)[1])


CLAIM = Claim(
    method="m_fac",
    arxiv="2107.03356",
    statement="The product with the inverse of the Fisher matrix of the last gradients is exact, without that matrix.",
    experiment=f"{STEPS} random gradients of {SIZE} numbers, a window of {WINDOW}, damping {DAMPING:g}, {SEEDS} seeds,"
    " in float32, beside a dense solve in float64 at every step.",
    required=f"a relative error of at most {REQUIRED:g} at every step",
    measure=measure,
)
