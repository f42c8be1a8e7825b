"""STORM+ with one setting on losses of different smoothness and noise, against rates tuned for each.

It fails by the loss times 10 with one example a batch, where STORM+ is five times above the best rate of SGD. On six of
the nine it is within a tenth of that rate or better.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.variance_reduction.svrg_linear_convergence import logistic_regression

EXAMPLES, FEATURES, STEPS, SEEDS = 500, 20, 1000, 8
BATCHES, FACTORS = (1, 16, 256), (0.1, 1.0, 10.0)
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


def mean_norms(build, settings, batch, factor):
    """The mean norm of the gradient over all data along the path, over steps and seeds, for each setting."""

    def run(setting, seed, problem, rows):
        tx = optax.with_extra_args_support(build(setting))

        def gradient(params, rows=slice(None)):
            return factor * jax.grad(problem.loss)(params, rows)

        def step(carry, rows):
            params, state = carry
            grad_fn = functools.partial(gradient, rows=rows)
            updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
            return (optax.apply_updates(params, updates), state), jnp.linalg.norm(gradient(params))

        start = 0.1 * jax.random.normal(jax.random.key(seed), (FEATURES,))
        return jnp.mean(jax.lax.scan(step, (start, tx.init(start)), rows)[1])

    problems = [logistic_regression(seed, EXAMPLES, FEATURES) for seed in range(SEEDS)]
    problems = jax.tree.map(lambda *leaves: jnp.stack(leaves), *problems)
    rows = jnp.asarray(np.random.default_rng(100).integers(EXAMPLES, size=(SEEDS, STEPS, batch)))
    over_seeds = jax.vmap(run, (None, 0, 0, 0))
    over_settings = jax.jit(jax.vmap(over_seeds, (0, None, None, None)))
    norms = np.asarray(over_settings(jnp.array(settings), jnp.arange(SEEDS), problems, rows))
    return np.nan_to_num(np.mean(norms, axis=1), nan=np.inf)


def measure() -> Finding:
    """Runs STORM+ and SGD on all losses with all batch sizes."""
    kinds = [(batch, factor) for batch in BATCHES for factor in FACTORS]
    adaptive = np.array([mean_norms(optkit.storm_plus, (1.0,), *kind)[0] for kind in kinds])
    tuned = np.array([mean_norms(optax.sgd, RATES, *kind) for kind in kinds])
    best = np.min(tuned, axis=1)
    ratios = adaptive / best
    of_rates = np.max(tuned / best[:, None], axis=0)
    robust = int(np.argmin(of_rates))
    listed = ", ".join(
        f"{ratio:.2f} (batch {batch}, loss x {factor:g}, SGD at {RATES[np.argmin(norms)]:g})"
        for ratio, norms, (batch, factor) in zip(ratios, tuned, kinds, strict=True)
    )
    return Finding(
        f"mean gradient norm of STORM+ over SGD's at its best rate: {listed}; at most {np.max(ratios):.2f}, against"
        f" {of_rates[robust]:.2f} by SGD at {RATES[robust]:g}, the best of one rate for all",
        bool(np.max(ratios) < of_rates[robust]),
    )


CLAIM = Claim(
    method="storm_plus",
    arxiv="2111.01040",
    statement="STORM+ needs to know neither the smoothness of the loss nor its noise: one setting suits all.",
    experiment=f"Logistic regression, {EXAMPLES} examples, {FEATURES} features, L2 1e-2, the loss times"
    f" {', '.join(f'{factor:g}' for factor in FACTORS)}, batches of {', '.join(map(str, BATCHES))}, {STEPS} steps,"
    f" {SEEDS} seeds, STORM+ at its defaults: the mean norm of the whole gradient along the path, over that of SGD at"
    f" the best of {len(RATES)} constant rates from {RATES[0]:g} to {RATES[-1]:g} for each loss and batch size.",
    required="the largest of the ratios lower than with SGD at any one rate for all of them",
    measure=measure,
)
