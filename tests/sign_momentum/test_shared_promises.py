import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from promises import assert_extra_arguments_reach_the_inner_optimizer, assert_needs_parameters, assert_same_steps
from trajectories import descend, last, trajectory

import optkit

INNER = {
    "sgd": lambda: optax.sgd(0.1, momentum=0.9),
    "adamw": lambda: optax.adamw(0.1, weight_decay=0.0),
    "lion": lambda: optax.lion(0.1, weight_decay=0.0),
}


NOISE = np.asarray(normal(30, 5, 4))


@functools.cache
def updates_along_noise(inner, wrapper=None):
    """Those of an inner optimizer, within a wrapper if there is one."""
    tx = INNER[inner]()
    return np.asarray(trajectory(tx if wrapper is None else wrapper(tx), NOISE, np.ones_like(NOISE[0])).updates)


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("wrapper", [optkit.cautious, optkit.grams])
def test_never_moves_against_the_gradient(inner, wrapper):
    assert np.all(updates_along_noise(inner, wrapper) * NOISE <= 0)
    assert np.any(updates_along_noise(inner) * NOISE > 0), "the inner optimizer does"


@pytest.mark.parametrize("inner", INNER)
def test_grams_keeps_the_size_of_the_inner_update(inner):
    updates, plain = updates_along_noise(inner, optkit.grams), updates_along_noise(inner)
    np.testing.assert_array_equal(np.abs(updates), np.abs(plain))


@pytest.mark.parametrize("wrapper", [optkit.cautious, optkit.grams])
def test_ascent_is_the_same_before_the_learning_rate(wrapper):
    before = optax.chain(wrapper(optax.trace(0.9), before_learning_rate=True), optax.scale_by_learning_rate(0.1))
    assert_same_steps(before, wrapper(optax.sgd(0.1, 0.9)), normal(30, 5, 4), jnp.ones((5, 4)))


def test_cautious_without_disagreement_changes_nothing():
    sgd = optax.sgd(0.1)
    assert_same_steps(sgd, optkit.cautious(sgd), normal(30, 5, 4), jnp.ones((5, 4)), rtol=0)


def quadratic_loss(tx, learning_rate):
    """Loss after 300 steps on a quadratic with eigenvalues from 0.01 to 10 in a random basis."""
    rotation = jnp.linalg.qr(normal(100, 100, seed=1))[0]
    hessian = (rotation * jnp.logspace(-2, 1, 100)) @ rotation.T
    params = last(descend(tx(learning_rate), lambda params, _: hessian @ params, normal(100), steps=300).params)
    return params @ hessian @ params / 2


@pytest.mark.parametrize("learning_rate", [0.01, 0.03])
@pytest.mark.parametrize("tx", [optkit.grams_adamw, optkit.cautious_adamw])
def test_beats_adam_on_a_quadratic_at_small_rates(tx, learning_rate):
    assert quadratic_loss(tx, learning_rate) < quadratic_loss(optax.adam, learning_rate)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "build", [optkit.cautious_adamw, optkit.cautious_lion, optkit.grams_adamw, optkit.lion_kappa, optkit.signum]
)
def test_turning_complex_gradients_turns_the_updates(build):
    gradients, tx = np.asarray(normal(5, 4)) + 1j * np.asarray(normal(5, 4, seed=1)), build(0.1)

    @jax.jit
    def run_without_parameters(gradients):
        return jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], tx.init(gradients[0]), gradients)[1]

    turn = np.exp(0.7j)
    turned = run_without_parameters(turn * gradients)
    np.testing.assert_allclose(turned, turn * np.asarray(run_without_parameters(gradients)), rtol=1e-10)


NEEDS_NO_PARAMETERS = {
    "cautious": lambda: optkit.cautious(optax.sgd(0.1)),
    "grams": lambda: optkit.grams(optax.sgd(0.1)),
    "add_cautious_decayed_weights": optkit.add_cautious_decayed_weights,
    "cautious_adamw": lambda: optkit.cautious_adamw(0.1),
    "cautious_lion": lambda: optkit.cautious_lion(0.1),
    "grams_adamw": lambda: optkit.grams_adamw(0.1),
    "lion_kappa": lambda: optkit.lion_kappa(0.1),
    "lion_kappa, implicit": lambda: optkit.lion_kappa(0.1, implicit_decay=True),
    "signum": lambda: optkit.signum(0.1),
}


@pytest.mark.parametrize("build", NEEDS_NO_PARAMETERS.values(), ids=list(NEEDS_NO_PARAMETERS))
def test_without_decay_parameters_are_not_needed(build):
    tx, grads = build(), jnp.array([1.0, -2.0])
    np.testing.assert_array_equal(tx.update(grads, tx.init(grads))[0], tx.update(grads, tx.init(grads), grads)[0])


@pytest.mark.parametrize(
    "name",
    ["add_cautious_decayed_weights", "cautious_adamw", "cautious_lion", "grams_adamw", "lion_kappa", "signum"],
)
def test_decay_without_parameters_names_the_method(name):
    rate = {} if name.startswith("add_") else {"learning_rate": 0.1}
    assert_needs_parameters(getattr(optkit, name)(**rate, weight_decay=0.1), name)


@pytest.mark.slow
def test_decay_masks_may_be_functions_of_the_whole_tree():
    params = {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full(2, 2.0)}
    mask = functools.partial(jax.tree.map, lambda x: x.ndim > 1)
    for name in ("cautious_adamw", "cautious_lion", "grams_adamw", "lion_kappa", "signum"):
        tx = getattr(optkit, name)(0.1, weight_decay=0.5, mask=mask)
        updates, _ = tx.update(optax.tree.zeros_like(params), tx.init(params), params)
        np.testing.assert_allclose(updates["kernel"], -0.1, rtol=1e-6)
        np.testing.assert_array_equal(updates["bias"], 0.0)


@pytest.mark.parametrize("name", ["mask", "mu_dtype"])
@pytest.mark.parametrize("method", ["cautious_adamw", "cautious_lion", "grams_adamw", "lion_kappa", "signum"])
def test_static_arguments_that_injection_made_arrays_are_refused(method, name):
    with pytest.raises(TypeError, match=f"^{name} cannot be an array, .* static_args"):
        getattr(optkit, method)(0.1, **{name: jnp.array(1)})


def test_weight_decay_is_not_masked():
    params = jnp.array([4.0, -4.0])
    for tx in (optkit.cautious_adamw, optkit.cautious_lion, optkit.grams_adamw):
        decayed = tx(0.1, weight_decay=0.5)
        updates, _ = decayed.update(jnp.zeros(2), decayed.init(params), params)
        np.testing.assert_allclose(updates, -0.05 * params, rtol=1e-6)


@pytest.mark.parametrize("wrapper", [optkit.cautious, optkit.grams])
def test_extra_arguments_reach_the_inner_optimizer(wrapper):
    assert_extra_arguments_reach_the_inner_optimizer(wrapper)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: optkit.cautious(optax.sgd(0.1), scale="mean"), "scale must be 'mean_clamp'.* got 'mean'"),
        (lambda: optkit.cautious(optax.sgd(0.1), threshold=0.0), r"threshold must be in \(0, 1\], got 0.0"),
        (lambda: optkit.cautious_adamw(0.1, eps_placement="mid"), "eps_placement must be 'pre' or 'post', got 'mid'"),
        (lambda: optkit.grams_adamw(0.1, b2=1.0), r"b2 must be in \[0, 1\), got 1.0"),
        (lambda: optkit.grams_adamw(0.1, eps=-1.0), "eps must be in"),
        (lambda: optkit.add_cautious_decayed_weights(-0.1), "weight_decay must be in"),
    ],
)
def test_wrong_hyperparameters_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
