import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from promises import assert_same_steps

import optkit


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("mu", [0.0, 3.0])
def test_the_learner_is_momentum(mu):
    gradients, params = normal(20, 4, seed=1), jnp.ones(4)
    rate, beta = 0.1, 0.95
    learner = optkit.online_gradient_descent(rate, beta, mu)
    momentum = beta / (1 + rate * mu)
    assert_same_steps(learner, optax.sgd(momentum * rate, momentum), gradients, params, rtol=1e-12)
    averaged = optax.chain(optax.ema(momentum, debias=False), optax.scale(-beta * rate / (1 + rate * mu - beta)))
    assert_same_steps(learner, averaged, gradients, params, rtol=1e-12)


def test_without_regularization_the_momentum_is_beta():
    learner, momentum = optkit.online_gradient_descent(0.1, 0.9, mu=0.0), optax.sgd(0.09, momentum=0.9)
    assert_same_steps(learner, momentum, normal(20, 4, seed=1), jnp.ones(4), rtol=1e-5)


def test_the_regularization_bounds_the_way_of_a_gradient():
    tx = optkit.online_gradient_descent(1e3, beta=0.9, mu=10.0)
    params = jnp.zeros(())
    updates, state = tx.update(jnp.ones(()), tx.init(params))
    way = updates
    for _ in range(10):
        updates, state = tx.update(jnp.zeros(()), state)
        way += updates
    assert -0.9 / 10 <= way < -0.089


def test_a_schedule_counts_from_zero():
    tx = optkit.online_gradient_descent(lambda count: 0.1 * (count + 1), beta=0.5, mu=0.0)
    params = jnp.zeros(())
    first, state = tx.update(jnp.ones(()), tx.init(params))
    second, _ = tx.update(jnp.ones(()), state)
    np.testing.assert_allclose([first, second], [-0.05, 0.5 * (-0.05 - 0.2)], rtol=1e-6)
