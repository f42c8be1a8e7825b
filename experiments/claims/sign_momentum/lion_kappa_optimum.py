"""Lion with any kappa solves the composite problem that the paper says."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.sign_momentum import SEEDS
from optkit.sign_momentum.kappa import Kappa

ROWS, COLUMNS, EXAMPLES = 6, 4, 40
SIZE = ROWS * COLUMNS
WEIGHT_DECAY, DELTA = 0.5, 0.5
RATE, STEPS = 1e-2, 5000
REQUIRED_GAP, REQUIRED_EXCESS = 1e-4, 1e-9
PROBLEM = (
    f"least squares of {EXAMPLES} examples for a {ROWS} x {COLUMNS} matrix, features of scales 1 to 0.3, whose solution"
    " without the constraint lies far outside"
)


class Case(NamedTuple):
    """One kappa.

    Attributes:
        kappa: its subgradient.
        value: kappa of a matrix.
        groups: the entries whose norms the constraint bounds by 1 / weight_decay, as ones in a row for each of them.
        ridge: the factor of the half squared norm that it adds to the loss.
    """

    kappa: Kappa
    value: Callable[[Any], Any]
    groups: np.ndarray
    ridge: float = 0.0

    def norms(self, x: np.ndarray) -> np.ndarray:
        """The norms that are bounded."""
        return (self.groups @ x.ravel() ** 2) ** 0.5


CASES = {
    "l1": Case(optkit.kappa.l1(), lambda x: jnp.sum(jnp.abs(x)), np.eye(SIZE)),
    "l2": Case(optkit.kappa.lp(2.0), jnp.linalg.norm, np.ones((1, SIZE))),
    "huber": Case(
        optkit.kappa.huber(DELTA),
        lambda x: jnp.sum(optax.losses.huber_loss(x, delta=DELTA)) / DELTA,
        np.eye(SIZE),
        ridge=DELTA * WEIGHT_DECAY,
    ),
    "group": Case(
        optkit.kappa.group(),
        lambda x: jnp.sum(jnp.linalg.norm(x, axis=1)),
        np.repeat(np.eye(ROWS), COLUMNS, axis=1),
    ),
}


class LeastSquares(NamedTuple):
    """Features and targets."""

    features: Any
    targets: Any

    def loss(self, x: Any, ridge: float = 0.0) -> Any:
        """Half the mean squared error, and half the squared norm times `ridge`."""
        return ((self.features @ x.ravel() - self.targets) ** 2).mean() / 2 + ridge / 2 * (x**2).sum()


def draw_problem(seed: int) -> LeastSquares:
    """Draws a problem."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((EXAMPLES, SIZE)) * np.geomspace(1, 0.3, SIZE)
    return LeastSquares(features, features @ rng.normal(0, 6, SIZE) + rng.standard_normal(EXAMPLES))


def solve(problem: LeastSquares, case: Case) -> np.ndarray:
    """Solves the composite problem by SciPy."""
    bound = 1 / WEIGHT_DECAY
    # A ridge is more examples, whose targets are zero.
    features = np.concatenate([problem.features, (EXAMPLES * case.ridge) ** 0.5 * np.eye(SIZE)])
    targets = np.concatenate([problem.targets, np.zeros(SIZE)])
    if len(case.groups) == SIZE:
        found = scipy.optimize.lsq_linear(features, targets, (-bound, bound), method="bvls", tol=1e-14)
    else:
        # In units in which the bound and the loss of zero are 1, for SciPy's tolerances.
        features = features * bound / np.linalg.norm(targets)
        targets = targets / np.linalg.norm(targets)
        found = scipy.optimize.minimize(
            lambda x: ((features @ x - targets) ** 2).sum(),
            np.full(SIZE, 1e-2),
            jac=lambda x: 2 * features.T @ (features @ x - targets),
            constraints={
                "type": "ineq",
                "fun": lambda x: 1 - case.groups @ x**2,
                "jac": lambda x: -2 * case.groups * x,
            },
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 1000},
        )
        found.x = bound * found.x
    if not found.success:
        raise ArithmeticError(f"SciPy did not solve the problem: {found.message}")
    return found.x.reshape(ROWS, COLUMNS)


def train(problem: LeastSquares, case: Case) -> Any:
    """Trains from zero with the rate falling to zero."""
    tx = optkit.lion_kappa(optax.cosine_decay_schedule(RATE, STEPS), kappa=case.kappa, weight_decay=WEIGHT_DECAY)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(problem.loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    start = jnp.zeros((ROWS, COLUMNS))
    return jax.lax.scan(step, (start, tx.init(start)), length=STEPS)[0][0]


def measure() -> Finding:
    """Solves with Lion and by SciPy."""
    problems = [draw_problem(seed) for seed in range(SEEDS)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *problems)
    said, holds = [], True
    for name, case in CASES.items():
        with jax.enable_x64(True):
            found = np.asarray(jax.jit(jax.vmap(functools.partial(train, case=case)))(stacked))
        gaps, excesses, distances = [], [], []
        for problem, x in zip(problems, found, strict=True):
            solution = solve(problem, case)
            best = problem.loss(solution, case.ridge)
            gaps.append((problem.loss(x, case.ridge) - best) / (problem.loss(np.zeros_like(x)) - best))
            excesses.append(WEIGHT_DECAY * case.norms(x).max() - 1)
            distances.append(np.linalg.norm(x - solution) / np.linalg.norm(solution))
        holds &= max(map(abs, gaps)) <= REQUIRED_GAP and max(excesses) <= REQUIRED_EXCESS
        said.append(f"{name}: {max(gaps, key=abs):.1e}, relative distance {max(distances):.1e}")
    return Finding(f"largest gap of {SEEDS} problems: {'; '.join(said)}", bool(holds))


CLAIM = Claim(
    method="lion_kappa",
    arxiv="2310.05898",
    statement="Lion-kappa solves min f(x) + kappa*(wd x) / wd, where kappa* is the convex conjugate.",
    experiment=(
        f"{PROBLEM[0].upper()}{PROBLEM[1:]}; weight decay {WEIGHT_DECAY:g}, kappas l1 (a box), l2 (a ball), huber"
        f" {DELTA:g} (a box and a ridge) and group (a ball for each row), {STEPS} steps from zero at rates from"
        f" {RATE:g} to 0, {SEEDS} problems each, float64; against SciPy's bounded least squares and SLSQP."
    ),
    required=(
        f"in every problem the loss within {REQUIRED_GAP:g} of what SciPy gains from zero, and the constraint kept to"
        f" {REQUIRED_EXCESS:g}"
    ),
    measure=measure,
)
