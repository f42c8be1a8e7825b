"""Decentralized SGD descends on a loss averaged over directions: sharpness-aware minimization."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import optkit
from experiments.claims import Claim, Finding

WORKERS, INPUTS, HIDDEN, EXAMPLES, STEPS, RATE = 8, 3, 5, 64, 200, 0.1
DISTANCES = (0.4, 0.2, 0.1, 0.05)


def problem(rng: np.random.Generator) -> tuple[Callable[..., jax.Array], jax.Array, jax.Array]:
    """Draws a regression for a tanh network; gives its loss over some examples, a start, and each worker's examples."""
    features = jnp.asarray(rng.standard_normal((EXAMPLES, INPUTS)))
    targets = jnp.sin(features @ jnp.asarray(rng.standard_normal(INPUTS)))
    weights = {
        "hidden": jnp.asarray(rng.standard_normal((INPUTS, HIDDEN)) / INPUTS**0.5),
        "output": jnp.asarray(rng.standard_normal(HIDDEN) / HIDDEN**0.5),
    }
    start, unravel = ravel_pytree(weights)

    def loss(params, examples):
        network = unravel(params)
        predicted = jnp.tanh(features[examples] @ network["hidden"]) @ network["output"]
        return jnp.mean((predicted - targets[examples]) ** 2)

    by_target = jnp.argsort(targets).reshape(WORKERS, -1)  # uneven data
    return loss, start, by_target


def deviations(loss: Callable[..., jax.Array], start: jax.Array, examples: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Runs decentralized SGD; gives the workers' mean and how they lie around it, at a distance of one."""
    tx = optkit.gossip(optax.sgd(RATE), optkit.topology.ring(WORKERS), axis_name="workers")

    def step(carry, _):
        params, state, examples = carry
        updates, state = tx.update(jax.grad(loss)(params, examples), state, params)
        return (optax.apply_updates(params, updates), state, examples), None

    def one_worker(examples):
        return jax.lax.scan(step, (start, tx.init(start), examples), None, STEPS)[0][0]

    params = jax.jit(jax.vmap(one_worker, axis_name="workers"))(examples)
    mean = params.mean(axis=0)
    around = params - mean
    return mean, around / jnp.sqrt(jnp.mean(jnp.sum(around**2, axis=1)))


def slope(errors: list[float]) -> float:
    """Gives the power of the distance with which errors fall."""
    return float(np.polyfit(np.log(DISTANCES), np.log(errors), 1)[0])


def measure() -> Finding:
    """Compares the workers' mean gradient with that of the loss at their mean, and of the averaged loss."""
    with jax.enable_x64(True):
        loss, start, examples = problem(np.random.default_rng(0))
        mean, around = deviations(loss, start, examples)
        covariance = around.T @ around / WORKERS

        def on_all(params):
            return loss(params, jnp.arange(EXAMPLES))

        def curvature(params):
            return jnp.sum(jax.hessian(on_all)(params) * covariance) / 2

        gradient = jax.jit(jax.grad(on_all))
        sharpness = jax.jit(jax.grad(curvature))(mean)
        plain, averaged = [], []
        for distance in DISTANCES:
            difference = jnp.mean(jax.vmap(lambda e, d=distance: gradient(mean + d * e))(around), axis=0) - gradient(
                mean
            )
            plain.append(float(jnp.linalg.norm(difference)))
            averaged.append(float(jnp.linalg.norm(difference - distance**2 * sharpness)))
    powers = slope(plain), slope(averaged)
    return Finding(
        f"the difference falls with the power {powers[0]:.2f} of the distance, that from the averaged loss with"
        f" {powers[1]:.2f}; at {DISTANCES[-1]} the second is {averaged[-1] / plain[-1]:.1%} of the first",
        1.8 <= powers[0] <= 2.2 and powers[1] >= 2.7,
    )


CLAIM = Claim(
    method="gossip",
    arxiv="2306.02913",
    statement="The mean gradient of decentralized SGD is that of the loss averaged over a Gaussian with the workers'"
    " covariance around their mean, up to third order in their distance.",
    experiment=f"A {INPUTS}-{HIDDEN}-1 tanh network, {WORKERS} workers on a ring with uneven data after {STEPS} steps;"
    f" their deviations from the mean, scaled to distances of {', '.join(map(str, DISTANCES))}, float64.",
    required="the difference from the gradient at the mean falls with a power of 1.8 to 2.2 of the distance, that from"
    " the averaged loss with one of at least 2.7",
    measure=measure,
)
