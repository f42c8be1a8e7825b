"""A function of parameters and momentum never rises while Lion runs, but for the length of its steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.sign_momentum import SEEDS
from experiments.claims.sign_momentum.lion_kappa_optimum import (
    CASES,
    COLUMNS,
    DELTA,
    EXAMPLES,
    PROBLEM,
    ROWS,
    WEIGHT_DECAY,
    Case,
    LeastSquares,
    draw_problem,
    solve,
)

RATE, STEPS = 2e-3, 20_000
B1, B2 = 0.9, 0.99
ROUNDING, REQUIRED_REST = 1e-12, 0.01


def lyapunov(
    problem: LeastSquares, start: jax.Array, smoothness: jax.Array, *, case: Case, b1: float, b2: float
) -> tuple[jax.Array, jax.Array]:
    """Runs Lion with implicit decay.

    Returns:
        The function after each step, and by how much each step raised it, less what the proof allows.
    """
    tx = optkit.lion_kappa(RATE, b1, b2, case.kappa, WEIGHT_DECAY, implicit_decay=True)
    weight = RATE * b1 / (1 - b2 + RATE * WEIGHT_DECAY * (1 - b1))

    def value(x, momentum):
        conjugate = case.ridge * WEIGHT_DECAY / 2 * jnp.sum(x**2)  # inside the constraint, where x stays
        # The paper accumulates the negative gradient.
        gap = conjugate + case.value(momentum) + WEIGHT_DECAY * jnp.vdot(momentum, x)
        return problem.loss(x) + conjugate / WEIGHT_DECAY + weight * gap

    def step(carry, _):
        x, state = carry
        updates, new_state = tx.update(jax.grad(problem.loss)(x), state, x)
        new_x = optax.apply_updates(x, updates)
        old, new = (value(at, optax.tree.get(of, "mu")) for at, of in ((x, state), (new_x, new_state)))
        return (new_x, new_state), (new, new - old, smoothness / 2 * jnp.sum((new_x - x) ** 2))

    values, rises, allowed = jax.lax.scan(step, (start, tx.init(start)), length=STEPS)[1]
    return values, jnp.stack([rises, rises - allowed])


def measure() -> Finding:
    """Follows the function for every kappa."""
    problems = [draw_problem(seed) for seed in range(SEEDS)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *problems)
    smoothness = np.array([np.linalg.norm(problem.features, 2) ** 2 / EXAMPLES for problem in problems])
    starts = np.random.default_rng(100).standard_normal((SEEDS, ROWS, COLUMNS))
    said, holds = [], True
    for name, case in CASES.items():
        # Half as far from zero as the constraint is.
        inside = np.stack([x / (2 * WEIGHT_DECAY * case.norms(x).max()) for x in starts])
        runs = stacked, inside, smoothness
        with jax.enable_x64(True):
            (values, rises), (_, swapped) = (
                jax.device_get(jax.jit(jax.vmap(functools.partial(lyapunov, case=case, b1=b1, b2=b2)))(*runs))
                for b1, b2 in ((B1, B2), (B2, B1))
            )
        best = np.array([problem.loss(solve(problem, case), case.ridge) for problem in problems])
        rest = (values[:, -1] - best) / (values[:, 0] - best)
        limit = ROUNDING * values[:, :1]
        too_high = (rises[:, 1] / values[:, :1]).max()
        holds &= bool((rises[:, 1] <= limit).all() and rest.max() <= REQUIRED_REST)
        said.append(
            f"{name}: {too_high:.0e}, rises {np.mean(rises[:, 0] > limit):.0%} of steps, {rest.max():.1e} left (b1 and"
            f" b2 swapped: {(swapped[:, 1] / values[:, :1]).max():.0e})"
        )
    return Finding(f"largest rise beyond the allowed one, in units of the first value: {'; '.join(said)}", holds)


CLAIM = Claim(
    method="lion_kappa",
    arxiv="2310.05898",
    statement=(
        "The Lyapunov function f(x) + K*(wd x) / wd + c (K*(wd x) + K(m) - wd m'x), where K is kappa and m the average"
        " of negative gradients, rises in no step by more than L |step|^2 / 2, where f is L-smooth (b1 <= b2, implicit"
        " decay)."
    ),
    experiment=(
        f"{PROBLEM[0].upper()}{PROBLEM[1:]}; weight decay {WEIGHT_DECAY:g}, kappas l1, l2, huber {DELTA:g} and group,"
        f" {STEPS} steps at rate {RATE:g} from inside the constraint, {SEEDS} problems each, float64."
    ),
    required=(
        f"no rise beyond it by more than {ROUNDING:g} of the first value, and at the end at most {REQUIRED_REST:.0%} of"
        " the way to SciPy's optimum left; the steps that rise and b1 > b2 reported"
    ),
    measure=measure,
)
