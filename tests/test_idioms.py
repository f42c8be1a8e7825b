"""Loops as Optax's own examples write them, with optkit's optimizers put in."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optkit
from optkit.testing import trees

OPTIMIZERS = {
    "adam_sn": optkit.adam_sn,
    "cautious_adamw": optkit.cautious_adamw,
    "clipped_sgd": functools.partial(optkit.clipped_sgd, tau=1.0),
    "dion": optkit.dion,
    "exponentiated_adamw": functools.partial(optkit.exponentiated_adamw, key=0),
    "frugal_adamw": functools.partial(
        optkit.frugal_adamw, key=0, projector=optkit.subspace_projector("columns", density=0.5)
    ),
    "grams_adamw": optkit.grams_adamw,
    "lion_kappa": optkit.lion_kappa,
    "mars_adamw": optkit.mars_adamw,
    "micro_adam": functools.partial(optkit.micro_adam, density=0.5),
    "muon": optkit.muon,
    "storm": lambda learning_rate: optax.chain(
        optkit.recursive_momentum(0.5), optax.scale_by_learning_rate(learning_rate)
    ),
}
SHAPES = {"hidden": {"kernel": (3, 4), "bias": (4,)}, "output": {"kernel": (4, 1), "bias": (1,)}}
INPUTS = jax.random.normal(jax.random.key(1), (16, 3))
TARGETS = jnp.tanh(INPUTS @ jnp.array([[1.0], [-2.0], [0.5]]))
every_optimizer = pytest.mark.parametrize("build", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


def initial():
    return trees.normal(trees.abstract(SHAPES), seed=0)


def loss(params, inputs, targets):
    hidden = jnp.tanh(inputs @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return jnp.mean((hidden @ params["output"]["kernel"] + params["output"]["bias"] - targets) ** 2)


def step(tx, params, state, inputs=INPUTS, targets=TARGETS):
    grad_fn = jax.grad(lambda params: loss(params, inputs, targets))
    updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
    return optax.apply_updates(params, updates), state


@pytest.mark.slow
@every_optimizer
def test_getting_started(build):
    tx = optax.chain(build(learning_rate=optax.exponential_decay(0.02, 50, 0.5)))
    params = initial()
    state = tx.init(params)
    train = jax.jit(functools.partial(step, tx))
    for _ in range(50):
        params, state = train(params, state)
    assert loss(params, INPUTS, TARGETS) < 0.7 * loss(initial(), INPUTS, TARGETS)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "storm"])
def test_gradient_accumulation_over_parts_is_a_step_on_the_whole(name):
    build = OPTIMIZERS[name]
    whole, _ = step(build(learning_rate=0.1), initial(), build(learning_rate=0.1).init(initial()))
    multi = optax.MultiSteps(build(learning_rate=0.1), every_k_schedule=4)
    params, state = initial(), multi.init(initial())
    train = jax.jit(functools.partial(step, multi))
    for inputs, targets in zip(jnp.split(INPUTS, 4), jnp.split(TARGETS, 4), strict=True):
        params, state = train(params, state, inputs, targets)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), params, whole)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "storm"])
def test_frozen_parameters_stay(name):
    labels = {"hidden": "frozen", "output": "trained"}
    tx = optax.partition({"trained": OPTIMIZERS[name](learning_rate=0.1), "frozen": optax.set_to_zero()}, labels)
    params, _ = jax.jit(functools.partial(step, tx))(initial(), tx.init(initial()))
    jax.tree.map(np.testing.assert_array_equal, params["hidden"], initial()["hidden"])
    assert jnp.any(params["output"]["kernel"] != initial()["output"]["kernel"])


def test_frozen_parameters_stay_where_the_optimizer_asks_for_gradients():
    tx = optkit.storm(trainable={"hidden": False, "output": True})
    params, _ = jax.jit(functools.partial(step, tx))(initial(), tx.init(initial()))
    jax.tree.map(np.testing.assert_array_equal, params["hidden"], initial()["hidden"])
    assert jnp.any(params["output"]["kernel"] != initial()["output"]["kernel"])


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "micro_adam"])  # It rounds to codes.
def test_meta_learning_differentiates_through_the_steps(name):
    start = jax.tree.map(lambda x: x.astype(jnp.float64), initial())

    def end(learning_rate):
        tx = OPTIMIZERS[name](learning_rate=learning_rate)
        params, state = start, tx.init(start)
        for _ in range(3):
            params, state = step(tx, params, state)
        return loss(params, INPUTS, TARGETS)

    rate, small = 0.01, 1e-6
    difference = jax.jit(lambda rate: (end(rate + small) - end(rate - small)) / (2 * small))(rate)
    np.testing.assert_allclose(jax.jit(jax.grad(end))(rate), difference, rtol=1e-4)
