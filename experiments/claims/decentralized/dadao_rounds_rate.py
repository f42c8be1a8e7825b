"""How the gradients that DADAO in rounds needs grow with the condition number."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.decentralized.dadao_accelerated_rate import (
    CONDITIONS,
    RING,
    SEEDS,
    SIZE,
    TARGET,
    WORKERS,
    draw_problem,
    power,
)
from optkit.comparison import statistics
from optkit.decentralized._dadao import Wait
from optkit.decentralized.topology import Topology

WAITS: tuple[Wait, ...] = ("exponential", "one")
ROUNDS_OF_SQRT_CONDITION = 300
MOST = 0.6


def gradients_in_rounds(condition: float, wait: Wait, topology: Topology = RING) -> np.ndarray:
    """Counts the gradients of all workers until DADAO in rounds is near the minimum, for each seed."""
    train, problem = _train(topology, wait), draw_problem(condition)
    most = ROUNDS_OF_SQRT_CONDITION * condition**0.5
    return np.array([train(problem, float(condition), key, most) for key in jax.random.split(jax.random.key(0), SEEDS)])


@functools.cache
def _train(topology: Topology, wait: Wait) -> Callable[..., jax.Array]:
    """Compiles a training, for all problems: it returns the gradients, or infinity after too many rounds."""
    rates = optkit.optimal_rates(topology)

    def train(problem, condition, key, most):
        (hessians, targets, best), (draw_key, start_key) = problem, jax.random.split(key)
        tx = optkit.dadao(1.0, condition, rates, axis_name="workers", key=draw_key, wait=wait)

        def worker(hessian, target, start):
            def far(carry):
                _, _, distance, rounds = carry
                return ~(distance < TARGET) & (rounds < most)

            def step(carry):
                params, state, _, rounds = carry
                updates, state = tx.update(hessian @ (params - target), state, params)
                params: Any = optax.apply_updates(params, updates)
                return params, state, jax.lax.pmean(jnp.sum((params - best) ** 2), "workers"), rounds + 1

            _, _, distance, rounds = jax.lax.while_loop(far, step, (start, tx.init(start), jnp.inf, 0))
            return jnp.where(distance < TARGET, WORKERS * rounds, jnp.inf)

        start = jax.random.normal(start_key, (WORKERS, SIZE), float)
        return jax.vmap(worker, axis_name="workers", out_axes=None)(hessians, targets, start)

    return jax.jit(train)


def measure() -> Finding:
    """Counts the gradients at all condition numbers, for both waits."""
    words, holds, curves = [], True, {}
    with jax.enable_x64(True):
        for wait in WAITS:
            needed = {condition: gradients_in_rounds(condition, wait) for condition in CONDITIONS}
            powers = [power(CONDITIONS, lambda condition, i=i: needed[condition][i]) for i in range(SEEDS)]  # noqa: B023
            found = statistics.student(np.array(powers))
            curves[wait] = [float(np.mean(counts)) for counts in needed.values()]
            counts = ", ".join(f"{count:,.0f}" for count in curves[wait])
            words.append(f"{wait}: {counts} gradients, power {found.mean:.3f} ({found.low:.3f} to {found.high:.3f})")
            holds = holds and bool(found.high <= MOST)

    def draw(axes):
        for wait, curve in curves.items():
            axes.loglog(CONDITIONS, curve, "o-", label=f"wait: {wait}")
        axes.set_xlabel("condition number")
        axes.set_ylabel("gradients of all workers")
        axes.legend()

    return Finding("; ".join(words), holds, draw)


CLAIM = Claim(
    method="dadao",
    arxiv="2208.00779",
    statement="The gradients that DADAO needs grow with the root of the condition number, also if its exchanges are"
    " gathered in rounds.",
    experiment=f"Linear regression with {SIZE} parameters on each of {WORKERS} workers on a ring, condition numbers"
    f" {', '.join(map(str, CONDITIONS))}, optimal rates of exchanges, exact gradients, {SEEDS} seeds, exponential waits"
    f" and waits of one: gradients of all workers until the mean squared distance to the optimum is below"
    f" {TARGET:g}.",
    required=f"the power of the condition number at most {MOST} (upper end of its 95% interval), for both waits",
    measure=measure,
)
