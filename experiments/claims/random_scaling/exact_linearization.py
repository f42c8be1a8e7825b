"""Where steps are scaled at random, the gradient at the end predicts the decrease of any loss."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding
from optkit.method import parameters_as_they_are

DRAWS, STEPS = 4096, 20


def measure() -> Finding:
    """Runs the experiment."""
    keys = jax.random.split(jax.random.key(0), DRAWS)
    scaled = np.asarray(jax.jit(jax.vmap(lambda key: errors(optkit.randomly_scaled(heavy_ball(), key=key))))(keys))
    plain = float(jax.jit(lambda: errors(heavy_ball()))())
    standard_error = scaled.std() / np.sqrt(DRAWS)
    return Finding(
        f"error of the predicted decrease {scaled.mean():.1e} with scaling, {plain:.1e} without; standard error"
        f" {standard_error:.1e}",
        bool(abs(scaled.mean()) < 3 * standard_error and abs(plain) > 10 * standard_error),
    )


def errors(tx: optax.GradientTransformation, ends: Callable[[Any, Any], Any] = parameters_as_they_are) -> jax.Array:
    """Trains a network with kinks and returns its decrease minus the sum of `<gradient at the end of a step, D>`.

    Args:
        tx: the optimizer.
        ends: finds the points between which the loss decreases in a state and the parameters of the training loop, by
            default these parameters.
    """
    inputs, hidden, output, targets = (
        jax.random.normal(key, shape)
        for key, shape in zip(jax.random.split(jax.random.key(1), 4), [(32, 4), (4, 8), (8,), (32,)], strict=True)
    )

    def loss(params):
        return jnp.mean(jnp.abs(jax.nn.relu(inputs @ params["hidden"]) @ params["output"] - targets))

    def step(carry, _):
        params, state, direction_state = carry
        gradient = jax.grad(loss)(params)
        updates, state = tx.update(gradient, state, params)
        direction, direction_state = momentum.update(gradient, direction_state, params)
        params = optax.apply_updates(params, updates)
        return (params, state, direction_state), optax.tree.vdot(jax.grad(loss)(params), direction)

    momentum = heavy_ball()
    start = {"hidden": hidden, "output": output}
    carry = start, tx.init(start), momentum.init(start)
    (params, state, _), predicted = jax.lax.scan(step, carry, length=STEPS)
    return loss(ends(state, params)) - loss(start) - jnp.sum(predicted)


def heavy_ball() -> optax.GradientTransformation:
    """Momentum, which chooses the steps before they are scaled."""
    return optax.sgd(0.05, momentum=0.9)


CLAIM = Claim(
    method="randomly_scaled",
    arxiv="2405.09742",
    statement=(
        "For exponential scaling the mean of F(x + s D) - F(x) is exactly that of <grad F(x + s D), D>, without"
        " smoothness."
    ),
    experiment=(
        "Absolute errors of a ReLU network with 40 weights, 20 full-batch steps of heavy ball (learning rate 0.05,"
        " momentum 0.9), 4096 draws: decrease of the loss against the sum of <gradient after the step, unscaled step>."
    ),
    required="with scaling within 3 standard errors of 0, without scaling more than 10 away",
    measure=measure,
)
