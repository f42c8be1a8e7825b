"""The four problems of Optax's common tests, solved in one program."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optkit.core.extra_args import Moment, extra_args
from optkit.testing import trees
from optkit.testing.case import Case, compiled

STEPS = 30_000
TOLERANCE = 3e-2


class Problem(NamedTuple):
    """A loss with its start and its minimum, which are NumPy arrays."""

    name: str
    loss: Callable[[Any], jax.Array]
    start: Any
    solution: Any


def _squared_distance(solution):
    return lambda params: optax.tree.norm(optax.tree.sub(params, solution), squared=True)


def _quadratic(name, start, solution):
    return Problem(name, _squared_distance(solution), start, solution)


def _array(*rows):
    return np.array(rows, np.float32)


PROBLEMS = (
    _quadratic("parabola", _array(-1.0, 10.0, 1.0), _array(1.0, -1.0, 1.0)),
    Problem(
        "Rosenbrock function",
        lambda params: (1.0 - params[0]) ** 2 + 100.0 * (params[1] - params[0] ** 2) ** 2,
        _array(0.0, 0.0),
        _array(1.0, 1.0),
    ),
    _quadratic("matrix parabola", np.zeros((2, 2), np.float32), _array([3.0, -2.0], [1.0, 4.0])),
    _quadratic(
        "vector and matrix together",
        (np.zeros(3, np.float32), np.zeros((2, 2), np.float32)),
        (_array(1.0, -1.0, 2.0), _array([1.0, 0.0], [-1.0, 1.0])),
    ),
)


def unsolved(case: Case) -> list[str]:
    """Lists the problems that a transformation does not solve."""
    changes = {}
    if case.rate_is_number and case.tuned == "learning_rate":
        changes["learning_rate"] = optax.cosine_decay_schedule(case.rate, STEPS)
    tx = case.build(**changes)
    results = compiled(lambda starts: _solve(case, tx, starts))([case.stack(problem.start) for problem in PROBLEMS])
    lines = []
    for problem, result in zip(PROBLEMS, results, strict=True):
        solution = case.stack(problem.solution)
        allowed = jax.tree.map(lambda x: TOLERANCE * (1.0 + np.abs(x)), solution)
        lines += [
            f"{problem.name}, {case.tuned}={case.rate!r}: {line}"
            for line in trees.value_differences(solution, result, "solution", allowed)
        ]
    return lines


def descend(case: Case, start: Any, centre: Any, bad: Any, steps: int) -> tuple[Any, jax.Array]:
    """Takes steps on half the squared distance from a point.

    Args:
        case: The transformation under test, which takes the steps.
        start: The first parameters.
        centre: The minimum.
        bad: What is added to the third gradient.
        steps: Number of steps.

    Returns:
        The last parameters, and after each step the largest distance of an entry from the minimum.
    """
    tx = case.build()

    def one_step(params, previous, state, centre, bad):
        def grad(point):
            return optax.tree.sub(point, centre)

        def loss(point):
            return 0.5 * optax.tree.norm(grad(point), squared=True)

        needed = extra_args(case.extra_args, Moment(params, loss, grad, grad, previous))
        updates, state = tx.update(optax.tree.add(grad(params), bad), state, params, **needed)
        return optax.apply_updates(params, updates), params, state

    def step(carry, index):
        now = jax.tree.map(lambda x: jnp.where(index == 2, x, 0.0), bad)
        carry = case.per_worker(one_step)(*carry, centre, now)
        distances = jax.tree.map(lambda p, c: jnp.max(jnp.abs(p - c)), carry[0], centre)
        return carry, jax.tree.reduce(jnp.maximum, distances)

    (params, _, _), distances = jax.lax.scan(step, (start, start, case.init(tx)(start)), jnp.arange(steps))
    return params, distances


def _solve(case: Case, tx: optax.GradientTransformationExtraArgs, starts: list[Any]) -> list[Any]:
    """Runs all problems side by side and returns the parameters to report."""

    def step(problem):
        def step(params, previous, state):
            grad = jax.grad(problem.loss)
            needed = extra_args(case.extra_args, Moment(params, problem.loss, grad, grad, previous))
            updates, state = tx.update(grad(params), state, params, **needed)
            return optax.apply_updates(params, updates), params, state

        return case.per_worker(step)

    steps = [step(problem) for problem in PROBLEMS]

    def all_steps(carry, index):
        points, totals = carry
        points = [step(*point) for step, point in zip(steps, points, strict=True)]
        late = index >= STEPS // 2
        totals = jax.tree.map(lambda total, p: total + jnp.where(late, p, 0.0), totals, [point[0] for point in points])
        return (points, totals), None

    points = [(start, start, case.init(tx)(start)) for start in starts]
    (points, totals), _ = jax.lax.scan(all_steps, (points, optax.tree.zeros_like(starts)), jnp.arange(STEPS))
    if case.sampler:
        return optax.tree.scale(2.0 / STEPS, totals)
    report = case.per_worker(case.eval_params)
    return [report(state, params) for params, _, state in points]
