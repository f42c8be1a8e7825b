"""SAVIC, local SGD whose steps are scaled by one diagonal, against local SGD that sends as many bytes."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding
from optkit.comparison import statistics

WORKERS, DIMENSION, BATCH_SIZE, STEPS, EVERY, EPS, SEEDS, MARGIN = 8, 20, 8, 2000, 16, 1e-3, 8, 0.5
SCALED_RATES, RATES = (0.003, 0.01, 0.03, 0.1), (0.03, 0.1, 0.3, 1.0, 3.0)
SHAPE = optax.cosine_decay_schedule(1.0, STEPS)


def excess(build: Callable[[Any], optax.GradientTransformation], rates: tuple[float, ...]) -> tuple[np.ndarray, float]:
    """Regresses with all learning rates and seeds.

    Returns:
        How far the loss at the end is above its minimum, by seed, and the rate, the best one by the mean over seeds.
    """
    scales = jnp.sqrt(jnp.geomspace(1e-3, 1.0, DIMENSION))

    def run(rate, key):
        tx = optax.with_extra_args_support(build(lambda count: rate * SHAPE(count)))
        solution_key, noise_key = jax.random.split(key)
        solution = jax.random.normal(solution_key, (DIMENSION,)) / scales

        def worker(key):
            def step(carry, key):
                params, state = carry
                feature_key, label_key = jax.random.split(key)
                features = scales * jax.random.normal(feature_key, (BATCH_SIZE, DIMENSION))
                noise = jax.random.normal(label_key, (BATCH_SIZE,))

                def grad_fn(params):
                    return features.T @ (features @ (params - solution) - noise) / BATCH_SIZE

                updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
                return (optax.apply_updates(params, updates), state), None

            start = jnp.zeros(DIMENSION)
            params = jax.lax.scan(step, (start, tx.init(start)), jax.random.split(key, STEPS))[0][0]
            return jax.lax.pmean(params, "workers")

        keys = jax.random.split(noise_key, WORKERS)
        found = jax.vmap(worker, axis_name="workers", out_axes=None)(keys)
        return jnp.sum((scales * (found - solution)) ** 2) / 2

    over_seeds = jax.vmap(run, (None, 0))
    seeds = jax.random.split(jax.random.key(0), SEEDS)
    losses = np.asarray(jax.jit(jax.vmap(over_seeds, (0, None)))(jnp.asarray(rates), seeds), float)
    best = int(np.argmin(np.nan_to_num(losses.mean(axis=1), nan=np.inf)))
    return losses[best], rates[best]


def compared(kind: Literal["adam", "oasis"], rates: tuple[float, ...]) -> Finding:
    """Regresses with a kind of diagonal at some rates, and with local SGD."""

    def scaling(rate):
        return optkit.local_scaling(rate, eps=EPS, axis_name="workers", every=EVERY, kind=kind)

    scaled, scaled_rate = excess(scaling, rates)
    plain, rate = excess(lambda rate: optkit.local_sgd(rate, EVERY // 2, axis_name="workers"), RATES)
    found = np.exp(statistics.student(np.log(scaled / plain))[:3])
    return Finding(
        f"{np.mean(scaled):.4f} (rate {scaled_rate:g}) against {np.mean(plain):.4f} (rate {rate:g}), {found[0]:.3f}"
        f" times ({found[1]:.3f} to {found[2]:.3f})",
        bool(found[0] <= MARGIN),
    )


def described(diagonal: str, rates: tuple[float, ...]) -> str:
    """Says what `compared` does."""
    return (
        f"Linear regression with {DIMENSION} features, curvatures from 0.001 to 1, label noise N(0, 1), {WORKERS}"
        f" workers with batches of {BATCH_SIZE}, {STEPS} steps with cosine decay; SAVIC with a diagonal of {diagonal},"
        f" eps {EPS:g} and averages every {EVERY} steps, which sends as much again for its diagonal, at the rates"
        f" {', '.join(map(str, rates))}, against local SGD that averages every {EVERY // 2} steps, at the rates"
        f" {', '.join(map(str, RATES))}; each at its best rate, {SEEDS} seeds: the loss at the end, above its minimum."
    )


CLAIM = Claim(
    method="local_scaling",
    arxiv="2406.00846",
    statement="Where curvatures differ, steps that all workers scale by one diagonal are better than those of local"
    " SGD.",
    experiment=described("squared gradients", SCALED_RATES),
    required=f"at most {MARGIN:g} times the loss",
    measure=lambda: compared("adam", SCALED_RATES),
)
