"""Loops as Optax's own examples write them, with optkit's optimizers put in."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal

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
INPUTS = np.asarray(normal(16, 3, seed=1))
TARGETS = np.tanh(INPUTS @ np.float32([[1.0], [-2.0], [0.5]]))
every_optimizer = pytest.mark.parametrize("build", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


def initial():
    return trees.normal(trees.abstract(SHAPES), seed=0)


@jax.jit
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
    alone = build(learning_rate=0.1)
    whole, _ = jax.jit(functools.partial(step, alone))(initial(), alone.init(initial()))
    multi = optax.MultiSteps(build(learning_rate=0.1), every_k_schedule=4)
    params, state = initial(), multi.init(initial())
    train = jax.jit(functools.partial(step, multi))
    for inputs, targets in zip(np.split(INPUTS, 4), np.split(TARGETS, 4), strict=True):
        params, state = train(params, state, inputs, targets)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), params, whole)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "storm"])
def test_frozen_parameters_stay(name):
    labels = {"hidden": "frozen", "output": "trained"}
    tx = optax.partition({"trained": OPTIMIZERS[name](learning_rate=0.1), "frozen": optax.set_to_zero()}, labels)
    params, _ = jax.jit(functools.partial(step, tx))(initial(), tx.init(initial()))
    jax.tree.map(np.testing.assert_array_equal, params["hidden"], initial()["hidden"])
    assert np.any(np.asarray(params["output"]["kernel"]) != np.asarray(initial()["output"]["kernel"]))


def test_frozen_parameters_stay_where_the_optimizer_asks_for_gradients():
    tx = optkit.storm(trainable={"hidden": False, "output": True})
    params, _ = jax.jit(functools.partial(step, tx))(initial(), tx.init(initial()))
    jax.tree.map(np.testing.assert_array_equal, params["hidden"], initial()["hidden"])
    assert np.any(np.asarray(params["output"]["kernel"]) != np.asarray(initial()["output"]["kernel"]))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "micro_adam"])  # It rounds to codes.
def test_meta_learning_differentiates_through_the_steps(name):
    start = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), initial())

    @jax.jit
    @jax.value_and_grad
    def end(learning_rate):
        tx = OPTIMIZERS[name](learning_rate=learning_rate)
        steps = jax.lax.scan(lambda carry, _: (step(tx, *carry), None), (start, tx.init(start)), length=3)
        return loss(steps[0][0], INPUTS, TARGETS)

    rate, small = 0.01, 1e-6
    (above, _), (below, _) = end(rate + small), end(rate - small)
    np.testing.assert_allclose(end(rate)[1], (above - below) / (2 * small), rtol=1e-4)
