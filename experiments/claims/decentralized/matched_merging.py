"""The mean of two networks that were initialized apart, with their units matched first and without."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments import tasks
from experiments.claims import Claim, Finding
from experiments.claims.trainings import DIGITS, SEEDS
from optkit.comparison import statistics

STEPS, BATCH_SIZE, RATE, SHARE = 400, 32, 3e-3, 0.5
UNITS = {
    "hidden": {"kernel": (None, "hidden"), "bias": ("hidden",)},
    "output": {"kernel": ("hidden", None), "bias": (None,)},
}


def hidden_units(params: Any, images: Any) -> dict[str, jax.Array]:
    """Gives the activations of the perceptron's hidden layer."""
    flat = images.reshape(images.shape[0], -1)
    return {"hidden": jax.nn.relu(flat @ params["hidden"]["kernel"] + params["hidden"]["bias"])}


def losses() -> np.ndarray:
    """Gives the test loss of the parents, of their mean, and of their matched mean, for each seed."""
    task = tasks.load(DIGITS)
    half = len(task.train["label"]) // 2
    tx = optax.adam(RATE)

    def train(data, key):
        init_key, draw_key = jax.random.split(key)

        def step(carry, key):
            params, state = carry
            rows = jax.random.choice(key, half, (BATCH_SIZE,))
            gradient = jax.grad(task.loss)(params, jax.tree.map(lambda leaf: leaf[rows], data))
            updates, state = tx.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        start = task.init(init_key)
        return jax.lax.scan(step, (start, tx.init(start)), jax.random.split(draw_key, STEPS))[0][0]

    def run(key):
        order_key, train_key = jax.random.split(key)
        order = jax.random.permutation(order_key, 2 * half).reshape(2, half)
        data = jax.tree.map(lambda leaf: jnp.asarray(leaf)[order], task.train)

        def worker(data, key):
            params = train(data, key)
            matched = optkit.activation_matched_mix(UNITS, lambda params: hidden_units(params, data["image"]))
            pair = optkit.topology.complete(2)
            found = params, optkit.mix(params, pair, "workers"), matched(params, pair, "workers")
            return jnp.stack([jax.lax.pmean(task.loss(x, task.test), "workers") for x in found])

        return jax.vmap(worker, axis_name="workers", out_axes=None)(data, jax.random.split(train_key, 2))

    return np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), SEEDS)), float)


def measure() -> Finding:
    """Compares how far the means' losses are above their parents'."""
    parents, plain, matched = losses().T
    barriers = plain - parents, matched - parents
    found = statistics.student(barriers[1] - SHARE * barriers[0])
    return Finding(
        f"loss {np.mean(parents):.3f} of the parents, {np.mean(matched):.3f} of the matched mean,"
        f" {np.mean(plain):.3f} of the plain one: barrier {np.mean(barriers[1]) / np.mean(barriers[0]):.0%} as high",
        found.high < 0,
    )


CLAIM = Claim(
    method="activation_matched_mix",
    arxiv="2404.08079",
    statement="Two networks that were initialized apart can be averaged when their units are matched by activations"
    " first; the plain mean forgets what they learned.",
    experiment=f"Two digits perceptrons with 64 hidden units, each trained on its half of the examples for {STEPS}"
    f" steps of Adam, {SEEDS} seeds: how far the test loss of their mean is above their own, on average.",
    required=f"the barrier of the matched mean less than {SHARE:g} times that of the plain one (paired 95% interval)",
    measure=measure,
)
