"""How the gradients that DADAO needs grow with the condition number, beside those of gradient tracking."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding
from optkit.comparison import statistics
from optkit.decentralized.topology import Topology

WORKERS, SIZE, SEEDS, TARGET = 8, 5, 8, 1e-6
CONDITIONS = (10, 40, 160, 640)
RING = optkit.topology.ring(WORKERS)
EVENTS_OF_SQRT_CONDITION, PIECE = 2000, 100
TRACKED_CONDITIONS, RATES, STEPS_OF_CONDITION = CONDITIONS[:3], (0.03, 0.1, 0.3, 0.6), 200
MOST, LEAST = 0.6, 0.85


def draw_problem(condition: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws the workers' Hessians and minima; gives them with the minimum of the mean loss.

    The extreme eigenvalues have the same directions on all workers. Else the mean would be better conditioned.
    """
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((SIZE, SIZE)))[0]
    shares = rng.uniform(size=(WORKERS, 1, SIZE))
    shares[..., 0], shares[..., -1] = 0, 1
    hessians = jnp.asarray(basis * condition**shares @ basis.T)
    targets = jnp.asarray(rng.standard_normal((WORKERS, SIZE)))
    return hessians, targets, jnp.linalg.solve(hessians.sum(axis=0), jnp.einsum("nij,nj->i", hessians, targets))


def asynchronous_gradients(condition: float, topology: Topology = RING) -> np.ndarray:
    """Counts the gradients of all workers until the simulator of DADAO is near the minimum, for each seed."""
    hessians, targets, best = draw_problem(condition)
    simulator = optkit.dadao_events(
        lambda x, worker, key: hessians[worker] @ (x - targets[worker]),  # noqa: ARG005  (exact gradients)
        optkit.optimal_rates(topology),
        mu=1.0,
        L=condition,
    )
    pieces = round(EVENTS_OF_SQRT_CONDITION * condition**0.5 / PIECE)

    def piece(state, events):
        state = simulator.run(state, events)
        return state, jnp.mean(jnp.sum((simulator.params(state) - best) ** 2, axis=1))

    def run(key):
        draw_key, start_key = jax.random.split(key)
        events = simulator.sample(draw_key, pieces * PIECE)
        in_pieces = jax.tree.map(lambda x: x.reshape(pieces, PIECE, *x.shape[1:]), events)
        start = simulator.init(jax.random.normal(start_key, (WORKERS, SIZE), float))
        distances = jax.lax.scan(piece, start, in_pieces)[1]
        return distances, jnp.cumsum(jnp.sum(in_pieces.is_gradient, axis=1))

    distances, gradients = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), SEEDS))
    return first_below(np.asarray(distances), np.asarray(gradients))


def tracked_gradients(condition: float) -> np.ndarray:
    """Counts the gradients of all workers until gradient tracking is near the minimum, at each rate."""
    hessians, targets, best = draw_problem(condition)
    steps = round(STEPS_OF_CONDITION * condition)

    def train(rate, start):
        tx = optkit.gradient_tracking(optax.sgd(rate / condition), RING, axis_name="workers")

        def worker(hessian, target, start):
            def step(carry, _):
                params, state = carry
                updates, state = tx.update(hessian @ (params - target), state, params)
                params: Any = optax.apply_updates(params, updates)
                return (params, state), jax.lax.pmean(jnp.sum((params - best) ** 2), "workers")

            return jax.lax.scan(step, (start, tx.init(start)), length=steps)[1]

        return jax.vmap(worker, axis_name="workers", out_axes=None)(hessians, targets, start)

    start = jax.random.normal(jax.random.key(0), (WORKERS, SIZE), float)
    distances = np.asarray(jax.jit(jax.vmap(train, (0, None)))(jnp.asarray(RATES), start))
    return first_below(distances, np.broadcast_to(WORKERS * np.arange(1, steps + 1), distances.shape))


def first_below(distances: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Takes the gradients at which each row of distances first falls below the target; infinite where none does."""
    below = distances < TARGET
    first = np.take_along_axis(gradients, np.argmax(below, axis=1)[:, None], axis=1)[:, 0]
    return np.where(below.any(axis=1), first, np.inf)


def power(conditions: tuple[int, ...], count: Callable[[int], float]) -> float:
    """Gives the power of the condition number with which gradients grow."""
    return float(np.polyfit(np.log(conditions), np.log([count(condition) for condition in conditions]), 1)[0])


def measure() -> Finding:
    """Counts the gradients of both methods at all condition numbers."""
    with jax.enable_x64(True):
        needed = {condition: asynchronous_gradients(condition) for condition in CONDITIONS}
        tracked = {condition: float(np.min(tracked_gradients(condition))) for condition in TRACKED_CONDITIONS}
    powers = [power(CONDITIONS, lambda condition, i=i: needed[condition][i]) for i in range(SEEDS)]
    found = statistics.student(np.array(powers))
    of_tracking = power(TRACKED_CONDITIONS, tracked.__getitem__)
    means = {condition: float(np.mean(counts)) for condition, counts in needed.items()}

    def draw(axes):
        axes.loglog(means.keys(), means.values(), "o-", label="DADAO")
        axes.loglog(tracked.keys(), tracked.values(), "o-", label="gradient tracking")
        axes.set_xlabel("condition number")
        axes.set_ylabel("gradients of all workers")
        axes.legend()

    return Finding(
        f"{', '.join(f'{count:,.0f}' for count in means.values())} gradients: power {found.mean:.3f} ({found.low:.3f}"
        f" to {found.high:.3f}); gradient tracking {', '.join(f'{count:,.0f}' for count in tracked.values())}: power"
        f" {of_tracking:.2f}",
        found.high <= MOST and of_tracking >= LEAST,
        draw,
    )


CLAIM = Claim(
    method="dadao_events",
    arxiv="2208.00779",
    statement="The gradients that DADAO needs grow with the root of the condition number; those of gradient tracking,"
    " which is not accelerated, grow with the condition number itself.",
    experiment=f"Linear regression with {SIZE} parameters on each of {WORKERS} workers on a ring, condition numbers"
    f" {', '.join(map(str, CONDITIONS))}, optimal rates of exchanges, exact gradients, {SEEDS} seeds: gradients of all"
    f" workers until the mean squared distance to the optimum is below {TARGET:g}; gradient tracking to condition"
    f" {TRACKED_CONDITIONS[-1]} at the best of {len(RATES)} rates.",
    required=f"the power of the condition number at most {MOST} (upper end of its 95% interval), and at least {LEAST}"
    " for gradient tracking",
    measure=measure,
)
