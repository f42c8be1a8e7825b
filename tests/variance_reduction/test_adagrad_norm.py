import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal
from trajectories import trajectory

import optkit


@pytest.fixture
def gradients():
    return {"a": normal(6, 3), "b": 10 * normal(6, 2, 2, seed=1), "none": None}


def norms(gradients, step):
    return np.sqrt(sum(np.sum(np.asarray(g[step]) ** 2) for g in jax.tree.leaves(gradients)))


def test_divisor_is_the_root_of_all_squared_norms(gradients):
    squares = trajectory(optkit.scale_by_adagrad_norm(b0=2.0), gradients).states.squares
    np.testing.assert_allclose(squares, 4 + np.cumsum([norms(gradients, t) ** 2 for t in range(6)]), rtol=1e-5)


def test_all_leaves_share_one_step_size(gradients):
    _, updates, states = trajectory(optkit.scale_by_adagrad_norm(), gradients)
    np.testing.assert_allclose(updates["a"], gradients["a"] / jnp.sqrt(states.squares)[:, None], rtol=1e-5)
    np.testing.assert_allclose(updates["b"], gradients["b"] / jnp.sqrt(states.squares)[:, None, None], rtol=1e-5)
    assert updates["none"] is None


def test_no_step_is_longer_than_the_learning_rate(gradients):
    _, updates, _ = trajectory(optkit.adagrad_norm(0.5, b0=0.0), gradients)
    lengths = [norms(updates, t) for t in range(6)]
    np.testing.assert_allclose(lengths[0], 0.5, rtol=1e-5)
    assert max(lengths) <= 0.5 * (1 + 1e-5)


def test_per_leaf_treats_each_leaf_as_if_alone(gradients):
    together = trajectory(optkit.scale_by_adagrad_norm(per_leaf=True), gradients).updates
    for name in ("a", "b"):
        alone = trajectory(optkit.scale_by_adagrad_norm(), {name: gradients[name]}).updates
        np.testing.assert_allclose(together[name], alone[name], rtol=1e-6)


def test_without_the_current_gradient_the_divisor_lags_by_one(gradients):
    _, updates, states = trajectory(optkit.scale_by_adagrad_norm(0.5, include_current=False), gradients)
    before = jnp.concatenate([jnp.array([0.25]), states.squares[:-1]])
    np.testing.assert_allclose(updates["a"], gradients["a"] / jnp.sqrt(before)[:, None], rtol=1e-5)


@pytest.mark.parametrize("include_current", [True, False])
def test_zero_over_zero_is_zero(include_current):
    _, updates, _ = trajectory(optkit.scale_by_adagrad_norm(0.0, include_current=include_current), jnp.zeros((2, 3)))
    np.testing.assert_array_equal(updates, 0)


def test_state_is_one_number(gradients):
    params = jax.tree.map(lambda g: g[0].astype(jnp.bfloat16), gradients)
    (squares,) = jax.tree.leaves(optkit.scale_by_adagrad_norm().init(params))
    assert squares.shape == ()
    assert squares.dtype == jnp.float32


def test_bad_b0():
    with pytest.raises(ValueError, match=r"b0 must be in \[0, inf\], got -1.0"):
        optkit.adagrad_norm(0.1, b0=-1.0)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("per_leaf", [False, True])
def test_after_a_bad_gradient_updates_are_nan(bad, per_leaf):
    gradients = jnp.ones((4, 3)).at[1, 0].set(bad)
    _, updates, _ = trajectory(optkit.scale_by_adagrad_norm(per_leaf=per_leaf), gradients)
    assert np.isfinite(updates[0]).all()
    assert np.isnan(updates[1:, 0]).all()
    assert np.isnan(updates[2:]).all()


def test_complex_gradients_count_by_their_absolute_values():
    tx = optkit.scale_by_adagrad_norm(b0=0.0)
    params = jnp.zeros(2, jnp.complex64)
    updates, state = tx.update(jnp.array([3j, 4.0 + 0j]), tx.init(params), params)
    np.testing.assert_allclose(updates, [0.6j, 0.8], rtol=1e-6)
    assert state.squares.dtype == jnp.float32
