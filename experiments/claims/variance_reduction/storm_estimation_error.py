"""STORM's momentum is closer to the gradient than the same average without its correction."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.variance_reduction.svrg_linear_convergence import LogisticRegression, logistic_regression

SEEDS = 4
EXAMPLES, FEATURES = 1000, 30
BATCH = 16
STEPS = 400
SKIPPED = 20
STEP_LENGTH = 0.03
WEIGHT = 0.03
REQUIRED_RATIO = 2.0


def squared_errors(estimator: Any, problem: LogisticRegression, rows: jax.Array) -> jax.Array:
    """Takes steps of fixed length along an estimate; returns its squared distance from the gradient in each."""
    estimator = optax.with_extra_args_support(estimator)
    steps = optax.chain(optax.normalize_by_update_norm(), optax.scale_by_learning_rate(STEP_LENGTH))

    def step(carry, batch):
        params, state, steps_state = carry
        grad_fn = functools.partial(jax.grad(problem.loss), rows=batch)
        grads = grad_fn(params)
        # With these prev_grads the correction is zero: recursive momentum is then a plain average that begins alike.
        estimate, state = estimator.update(grads, state, params, grad_fn=grad_fn, prev_grads=grads)
        error = jnp.sum((estimate - jax.grad(problem.loss)(params)) ** 2)
        updates, steps_state = steps.update(estimate, steps_state, params)
        return (optax.apply_updates(params, updates), state, steps_state), error

    params = jnp.zeros(problem.inputs.shape[1])
    return jax.lax.scan(step, (params, estimator.init(params), steps.init(params)), rows)[1]


def measure(name: str, build: Callable[[], optax.GradientTransformation]) -> Finding:
    """Compares an estimator with exponential averages on the same batches."""
    problems = [logistic_regression(seed, EXAMPLES, FEATURES) for seed in range(SEEDS)]
    problems = jax.tree.map(lambda *leaves: jnp.stack(leaves), *problems)
    rows = np.random.default_rng(100).integers(EXAMPLES, size=(SEEDS, STEPS, BATCH))
    curves = [
        np.mean(jax.jit(jax.vmap(functools.partial(squared_errors, tx)))(problems, jnp.asarray(rows)), axis=0)
        for tx in (build(), optkit.recursive_momentum(WEIGHT, keep_params=False), optax.ema(1 - WEIGHT))
    ]
    ours, average, from_zero = (float(np.mean(curve[SKIPPED:])) for curve in curves)

    def draw(axes):
        for label, curve in zip((name, "exponential average", "the same, from zero"), curves, strict=True):
            axes.semilogy(curve, label=label)
        axes.set_xlabel("step")
        axes.set_ylabel("squared distance from the gradient")
        axes.legend()

    return Finding(
        measured=f"{ours:.3f} against {average:.3f}; an average from zero, without its bias: {from_zero:.3f}",
        holds=average >= REQUIRED_RATIO * ours,
        draw=draw,
    )


EXPERIMENT = (
    f"Logistic regression, {EXAMPLES} examples, {FEATURES} features, L2 1e-2, batches of {BATCH}, {STEPS} steps of"
    f" length {STEP_LENGTH} along the estimate, which begins with the first gradient and gives each new one the weight"
    f" {WEIGHT}; {SEEDS} seeds, after step {SKIPPED}."
)

CLAIM = Claim(
    method="recursive_momentum",
    arxiv="1905.10018",
    statement="STORM's momentum has a smaller squared error than an exponential average with the same weight.",
    experiment=EXPERIMENT,
    required=f"at least {REQUIRED_RATIO:g} times lower",
    measure=lambda: measure("STORM", lambda: optkit.recursive_momentum(WEIGHT)),
)
