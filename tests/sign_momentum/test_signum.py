import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from promises import assert_decay_spares_masked_leaves, assert_same_steps
from trajectories import trajectory

import optkit


def test_without_decay_equals_optax():
    assert_same_steps(optkit.signum(0.1, 0.9), optax.signum(0.1, 0.9), normal(20, 6), jnp.ones(6), rtol=0)


def test_without_momentum_is_sign_descent():
    assert_same_steps(optkit.signum(0.1, 0.0), optax.sign_sgd(0.1), normal(20, 6), jnp.ones(6), rtol=0)


@pytest.mark.parametrize("b1", [0.0, 0.9])
def test_every_coordinate_moves_by_the_learning_rate(b1):
    updates = trajectory(optkit.signum(0.1, b1), normal(20, 6), jnp.ones(6)).updates
    np.testing.assert_allclose(jnp.abs(updates), 0.1, rtol=1e-6)


def test_decay_spares_masked_leaves():
    assert_decay_spares_masked_leaves(optkit.signum)
