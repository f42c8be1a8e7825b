"""Under an l1 penalty and uneven data, tracked gradients lead all workers to the minimum; proximal gossip does not."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding

SEEDS, WORKERS, SIZE, STEPS = 3, 5, 8, 2000
WEIGHT = 0.8
PROX = optkit.prox.l1(WEIGHT)
RING = optkit.topology.ring(WORKERS)


class Quadratics(NamedTuple):
    """One loss `x' A_i x / 2 - b_i' x` for each worker.

    Attributes:
        matrices: positive definite, one for each worker.
        vectors: one for each worker.
    """

    matrices: Any
    vectors: Any

    @property
    def smoothness(self) -> float:
        """The largest eigenvalue of any of the matrices."""
        return float(np.max(np.linalg.eigvalsh(self.matrices)))

    def residual(self, points: jax.Array, rate: Any, prox: Any = PROX) -> jax.Array:
        """How far a proximal gradient step on the mean loss moves the workers' mean, over the learning rate."""
        point = jnp.mean(points, axis=0)
        gradient = jnp.mean(self.matrices, axis=0) @ point - jnp.mean(self.vectors, axis=0)
        return jnp.linalg.norm(point - prox(point - rate * gradient, rate)) / rate


def quadratics(seed: int) -> Quadratics:
    """Draws losses that disagree: eigenvalues from 0.5 to 5 in other bases, minima that lie far apart."""
    rng = np.random.default_rng(seed)
    bases = np.linalg.qr(rng.standard_normal((WORKERS, SIZE, SIZE)))[0]
    eigenvalues = rng.uniform(0.5, 5, (WORKERS, 1, SIZE))
    return Quadratics(bases * eigenvalues @ bases.swapaxes(1, 2), 3 * rng.standard_normal((WORKERS, SIZE)))


def proximal_sgd(learning_rate: float, prox: Any) -> optax.GradientTransformation:
    """A gradient step and the proximal map, on each worker by itself."""

    def update(updates, params):
        return prox(params - learning_rate * updates, learning_rate) - params

    return optax.stateless(update)


def trajectory(
    tx: optax.GradientTransformation,
    problem: Quadratics,
    record: Callable[[jax.Array], Any],
    steps: int = STEPS,
    noise: Any = None,
) -> Any:
    """Descends from zero.

    Args:
        tx: each worker's optimizer, with the axis "workers".
        problem: the losses.
        record: called with the workers' parameters after each step.
        steps: how many.
        noise: added to the gradients, with axes over steps, workers and coordinates; none by default.

    Returns:
        What was recorded, stacked.
    """

    def step(carry, noise):
        params, state = carry
        worker = jax.lax.axis_index("workers")
        gradient = jnp.asarray(problem.matrices)[worker] @ params - jnp.asarray(problem.vectors)[worker] + noise
        updates, state = tx.update(gradient, state, params)
        return params + updates, state

    def step_and_record(carry, noise):
        carry = jax.vmap(step, axis_name="workers")(carry, noise)
        return carry, record(carry[0])

    params = jnp.zeros((WORKERS, SIZE))
    noise = jnp.zeros((steps, WORKERS, SIZE)) if noise is None else noise
    run = jax.jit(lambda carry, noise: jax.lax.scan(step_and_record, carry, noise)[1])
    return run((params, jax.vmap(tx.init)(params)), noise)


def measure() -> Finding:
    """Descends with exact gradients, by both forms of the method and by proximal gossip."""
    residuals, distances = {}, {}
    with jax.enable_x64(True):
        for seed in range(SEEDS):
            problem = quadratics(seed)
            rate = 0.3 / problem.smoothness
            methods = {
                "mixed": optkit.proximal_gradient_tracking(rate, RING, PROX, axis_name="workers"),
                "unmixed": optkit.proximal_gradient_tracking(rate, RING, PROX, axis_name="workers", mixed_step=False),
                "gossip": optkit.gossip(proximal_sgd(rate, PROX), RING, axis_name="workers"),
            }
            for name, tx in methods.items():
                last = trajectory(tx, problem, lambda points: points)[-1]
                residuals.setdefault(name, []).append(float(problem.residual(last, rate)))
                distances.setdefault(name, []).append(float(jnp.max(jnp.abs(last - jnp.mean(last, axis=0)))))
    worst = max(max(residuals[name] + distances[name]) for name in ("mixed", "unmixed"))
    least = min(residuals["gossip"])
    return Finding(
        f"at most {max(residuals['mixed']):.1e} (steps along mixed estimates) and {max(residuals['unmixed']):.1e}"
        f" (unmixed), workers at most {max(distances['mixed'] + distances['unmixed']):.1e} apart; proximal gossip"
        f" {least:.1e} to {max(residuals['gossip']):.1e}",
        worst < 1e-8 and least > 1e-2,
    )


CLAIM = Claim(
    method="proximal_gradient_tracking",
    arxiv="2302.14252",
    statement="With tracked gradients workers with uneven data agree on the minimum under a penalty, at a constant"
    " rate; proximal gossip ends beside it.",
    experiment=f"{WORKERS} workers on a ring, a quadratic of {SIZE} coordinates each, exact gradients, an l1 penalty of"
    f" {WEIGHT}, learning rate 0.3 over the largest eigenvalue, {STEPS} steps, {SEEDS} seeds: the norm of the proximal"
    " gradient mapping at the workers' mean.",
    required="below 1e-8 for both forms, workers within 1e-8, and above 1e-2 for proximal gossip",
    measure=measure,
)
