import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from promises import assert_needs_parameters
from trajectories import trajectory

import optkit


def measured(gradient, **options):
    """The scale that a leaf gets from its first gradient, as a number."""
    tx = optkit.scale_by_sai(**options)
    gradient = jnp.asarray(gradient)
    return float(tx.update(gradient, tx.init(gradient))[1].gsnr)


def test_scale_is_norm_over_standard_deviation():
    gradient = np.array([1.0, 2.0, 4.0, -3.0], np.float32)
    expected = np.linalg.norm(gradient) / np.std(gradient, ddof=1)
    np.testing.assert_allclose(measured(gradient), expected, rtol=1e-6)


def test_scale_does_not_depend_on_the_size_of_the_gradient():
    gradient = normal(6, 4)
    np.testing.assert_allclose(measured(1000 * gradient), measured(gradient), rtol=1e-6)


def test_scale_of_noise_is_the_root_of_the_leafs_size():
    gradient = normal(40, 100)
    np.testing.assert_allclose(measured(gradient), np.sqrt(4000), rtol=5e-3)


def test_scale_is_frozen_after_the_first_gradient():
    gradients = normal(5, 4, 3)
    gsnr = trajectory(optkit.scale_by_sai(), gradients).states.gsnr
    np.testing.assert_array_equal(gsnr, gsnr[0])


def test_momentum_begins_as_the_first_gradient():
    gradients = jnp.array([[1.0, 3.0], [2.0, -2.0]])
    momentum = trajectory(optkit.scale_by_sai(momentum=0.75), gradients).states.momentum
    np.testing.assert_allclose(momentum, [[1.0, 3.0], [1.25, 1.75]], rtol=1e-6)


def test_without_momentum_the_update_is_the_scaled_gradient():
    gradients = normal(3, 4)
    _, updates, states = trajectory(optkit.scale_by_sai(momentum=0.0), gradients)
    np.testing.assert_allclose(updates, states.gsnr[:, None] * gradients, rtol=1e-6)


def test_leaves_are_scaled_apart():
    gradient = {"noise": jnp.array([1.0, -1.0]), "signal": jnp.array([5.0, 5.5]), "none": None}
    tx = optkit.scale_by_sai()
    updates, state = tx.update(gradient, tx.init(gradient))
    assert float(state.gsnr["signal"]) > 10 * float(state.gsnr["noise"])
    assert updates["none"] is None


@pytest.mark.parametrize("gradient", [3.0, [3.0], [0.1] * 5, [[0.7, 0.7], [0.7, 0.7]]])
def test_leaves_of_equal_entries_are_not_scaled(gradient):
    assert measured(gradient) == 1.0


def test_leaves_of_equal_entries_are_scaled_by_their_norm_on_request():
    np.testing.assert_allclose(measured([3.0, 3.0], constant_scale="norm"), np.sqrt(18), rtol=1e-6)


def test_leaves_of_equal_entries_blow_up_like_the_authors_on_request():
    np.testing.assert_allclose(measured([3.0], follow="code", eps=1e-6), 3e6, rtol=1e-6)


def test_a_zero_gradient_is_not_measured():
    gradients = jnp.stack([jnp.zeros(4), jnp.zeros(4), jnp.arange(4.0), jnp.ones(4)])
    gsnr = trajectory(optkit.scale_by_sai(), gradients).states.gsnr
    np.testing.assert_allclose(gsnr, [0, 0, *[measured(jnp.arange(4.0))] * 2], rtol=1e-6)


def test_each_leaf_waits_for_its_own_gradient():
    first, late = jnp.array([1.0, -1.0]), jnp.array([2.0, 0.0])
    gradients = {"used": jnp.stack([first, late]), "late": jnp.stack([0 * first, late])}
    gsnr = trajectory(optkit.scale_by_sai(), gradients).states.gsnr
    np.testing.assert_allclose(gsnr["used"], measured(first), rtol=1e-6)
    np.testing.assert_allclose(gsnr["late"], [0, measured(late)], rtol=1e-6)


def test_a_leaf_without_first_gradient_never_moves_like_the_authors_on_request():
    gradients = jnp.stack([jnp.zeros(4), jnp.arange(4.0), jnp.arange(4.0)])
    _, updates, states = trajectory(optkit.scale_by_sai(follow="code"), gradients)
    np.testing.assert_array_equal(states.gsnr, 0)
    np.testing.assert_array_equal(updates, 0)


def test_decay_is_not_scaled():
    params = {"decayed": jnp.array([4.0, 2.0]), "free": jnp.array([4.0, 2.0])}
    tx = optkit.sgd_sai(0.1, weight_decay=0.5, mask={"decayed": True, "free": False})
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    np.testing.assert_allclose(updates["decayed"], [-0.2, -0.1], rtol=1e-6)
    np.testing.assert_array_equal(updates["free"], 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"eps": -1.0}, r"eps must be in \[0, inf\], got -1.0"),
        ({"weight_decay": -1.0}, r"weight_decay must be in \[0, inf\], got -1.0"),
        ({"follow": "release"}, "follow must be 'code' or 'paper', got 'release'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        optkit.sgd_sai(0.1, **arguments)


def test_a_wrong_scale_of_constant_leaves_is_named():
    with pytest.raises(ValueError, match="constant_scale must be 'one' or 'norm', got 'two'"):
        optkit.scale_by_sai(constant_scale="two")


def test_complex_gradients_count_by_their_absolute_values():
    gradients = jnp.array([3 + 4j, 1j, -2.0, 0.5])
    tx = optkit.scale_by_sai()
    updates, state = tx.update(gradients, tx.init(gradients))
    ratio = np.linalg.norm(gradients) / np.std(np.asarray(gradients), ddof=1)
    np.testing.assert_allclose(state.gsnr, ratio, rtol=1e-5)
    np.testing.assert_allclose(updates, ratio * gradients, rtol=1e-5)
    assert state.gsnr.dtype == jnp.float32


def test_updates_need_no_parameters_without_decay():
    tx = optkit.sgd_sai(0.1, weight_decay=0.0)
    gradients = jnp.array([1.0, -1.0])
    tx.update(gradients, tx.init(gradients))
    assert_needs_parameters(optkit.sgd_sai(0.1), "sgd_sai")


@pytest.mark.parametrize("step", [0, 2])
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_bad_gradient_is_seen(bad, step):
    tx = optkit.sgd_sai(0.1, weight_decay=0.0)
    params, state = jnp.array([1.0, -1.0]), tx.init(jnp.ones(2))
    for i in range(5):
        gradients = params.at[0].set(bad) if i == step else params
        updates, state = tx.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    assert jnp.isnan(params[0])
