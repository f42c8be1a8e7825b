import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from promises import assert_needs_parameters
from trajectories import trajectory

import optkit


def run(tx, params, steps=12):
    """Iterates and reported averages of gradient descent on noise."""
    iterates, _, states = trajectory(tx, normal(steps, *params.shape, seed=1), params)
    return iterates, jax.vmap(optkit.averaged_params)(states, iterates)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_it_is_the_corrected_moving_average_of_the_parameters(decay):
    iterates, averages = run(optax.chain(optax.sgd(0.1), optkit.average_iterates(decay)), jnp.ones(3))
    expected = trajectory(optax.ema(decay, debias=True), iterates).updates
    np.testing.assert_allclose(averages, expected, rtol=1e-12)


def test_decay_one_averages_all_equally():
    iterates, averages = run(optax.chain(optax.sgd(0.1), optkit.average_iterates(1.0)), jnp.ones(3))
    np.testing.assert_allclose(averages[-1], iterates.mean(axis=0), rtol=1e-5)


def test_the_iterates_are_as_without_it():
    averaged, _ = run(optax.chain(optax.sgd(0.1), optkit.average_iterates(0.9)), jnp.ones(3))
    np.testing.assert_allclose(averaged, 1 - 0.1 * jnp.cumsum(normal(12, 3, seed=1), axis=0), rtol=1e-4)


def test_before_the_first_update_it_is_the_parameters():
    params = {"w": jnp.ones(2, jnp.bfloat16), "b": None}
    state = optkit.average_iterates(0.9).init(params)
    reported = optkit.averaged_params(state, params)
    np.testing.assert_array_equal(reported["w"], params["w"])
    assert reported["b"] is None


def test_sixteen_bit_parameters_are_averaged_in_float32():
    tx = optkit.average_iterates(0.5)
    params = jnp.ones(2, jnp.bfloat16)
    updates = jnp.full(2, 0.001, jnp.bfloat16)
    _, state = tx.update(updates, tx.init(params), params)
    assert state.average.dtype == jnp.float32
    assert np.all(np.asarray(state.average) > 1), "1.001 is 1 in bfloat16"
    assert optkit.averaged_params(state, params).dtype == jnp.bfloat16


def test_leaves_outside_a_mask_are_reported_as_they_are():
    params = {"averaged": jnp.zeros(2), "free": jnp.zeros(2)}
    tx = optax.chain(optax.sgd(1.0), optax.masked(optkit.average_iterates(1.0), {"averaged": True, "free": False}))
    state = tx.init(params)
    for _ in range(3):
        updates, state = tx.update({"averaged": -jnp.ones(2), "free": -jnp.ones(2)}, state, params)
        params = optax.apply_updates(params, updates)
    reported = optkit.averaged_params(state, params)
    np.testing.assert_allclose(reported["averaged"], 2.0)
    np.testing.assert_allclose(reported["free"], 3.0)


def test_wrong_decay_is_named():
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\], got 2.0"):
        optkit.average_iterates(2.0)


def test_missing_parameters_are_named():
    assert_needs_parameters(optkit.average_iterates(0.9), "average_iterates")


@pytest.mark.parametrize("found", [0, 2])
def test_an_optimizer_with_no_or_two_averages_is_refused(found):
    tx = optax.chain(optax.sgd(0.1), *[optkit.average_iterates(0.9)] * found)
    with pytest.raises(ValueError, match=f"exactly one average_iterates in it, found {found}"):
        optkit.averaged_params(tx.init(jnp.ones(2)), jnp.ones(2))


def test_init_takes_types():
    state = optkit.average_iterates(0.9).init(jax.ShapeDtypeStruct((2, 4), jnp.float32))
    assert (state.average.shape, state.average.dtype) == ((2, 4), jnp.float32)
