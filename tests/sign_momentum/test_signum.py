import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optkit


def run(tx):
    grads = jax.random.normal(jax.random.key(0), (20, 6))
    params = jnp.ones(6)
    return jax.lax.scan(lambda state, grad: tx.update(grad, state, params)[::-1], tx.init(params), grads)[1]


def test_without_decay_equals_optax():
    np.testing.assert_array_equal(run(optkit.signum(0.1, 0.9)), run(optax.signum(0.1, 0.9)))


def test_without_momentum_is_sign_descent():
    np.testing.assert_array_equal(run(optkit.signum(0.1, 0.0)), run(optax.sign_sgd(0.1)))


@pytest.mark.parametrize("b1", [0.0, 0.9])
def test_every_coordinate_moves_by_the_learning_rate(b1):
    np.testing.assert_allclose(jnp.abs(run(optkit.signum(0.1, b1))), 0.1, rtol=1e-6)


def test_decay_spares_masked_leaves():
    params = {"decayed": jnp.array([4.0]), "free": jnp.array([4.0])}
    tx = optkit.signum(0.1, weight_decay=0.5, mask={"decayed": True, "free": False})
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    np.testing.assert_allclose(updates["decayed"], -0.2, rtol=1e-6)
    np.testing.assert_array_equal(updates["free"], 0.0)
