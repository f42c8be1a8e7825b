"""Top-1 without feedback moves away from the minimum, and reaches it with feedback: three workers, three numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.communication import over_workers
from optkit.typing import Feedback

RATE, STEPS, GROWN, FALLEN = 0.02, 300, 1e3, 1e-2
RULES = {
    "EF14": optkit.feedback.ef14(),
    "EF21": optkit.feedback.ef21(),
    "EControl": optkit.feedback.econtrol(0.1),
}
SLOPES = ((-3.0, 2.0, 2.0), (2.0, -3.0, 2.0), (2.0, 2.0, -3.0))


def distance(rule: Feedback | None) -> float:
    """Returns how far the end is from the minimum, in distances of the start."""
    mean = optkit.compressed_mean(optkit.compressors.top_k(1 / 3), rule, axis_name="workers")

    def worker(slope):
        def step(carry, _):
            x, state = carry
            direction, state = mean.update(2 * (slope @ x) * slope + x / 2, state)
            return (optax.tree.add_scale(x, -RATE, direction), state), None

        start = jnp.ones(3)
        return jax.lax.scan(step, (start, mean.init(start)), length=STEPS)[0][0]

    return float(np.linalg.norm(over_workers(worker)(jnp.array(SLOPES))) / np.sqrt(3))


def measure() -> Finding:
    """Descends with and without feedback."""
    naive = distance(None)
    found = {name: distance(rule) for name, rule in RULES.items()}
    shown = ", ".join(f"{name} {end:.1e}" for name, end in found.items())
    return Finding(
        f"{naive:.1e} times the distance at the start without feedback; {shown}",
        naive >= GROWN and max(found.values()) <= FALLEN,
    )


CLAIM = Claim(
    method="feedback.econtrol",
    arxiv="2002.12410",
    statement="Descent by top-1 of each worker's gradient diverges exponentially on a strongly convex function.",
    experiment=(
        f"The paper's Example 1: f_i(x) = <a_i, x>^2 + |x|^2 / 4 on three workers from (1, 1, 1); top-1, rate {RATE},"
        f" {STEPS} steps, without feedback and with EF14, EF21 and EControl (eta 0.1)."
    ),
    required=f"at least {GROWN:g} times the distance at the start without feedback, at most {FALLEN:g} with each",
    measure=measure,
)
