import jax.numpy as jnp
import numpy as np
from promises import assert_needs_parameters

import optkit

COMPLEX = jnp.array([1j, -1, 1 - 1j, -1 + 2j])


def test_cautious_decay_compares_directions_of_complex_numbers():
    tx = optkit.add_cautious_decayed_weights(0.5)
    params = jnp.array([2j, 2, -2, 1 + 1j])
    right = COMPLEX + 0.5 * params * jnp.array([1, 0, 0, 1])
    np.testing.assert_allclose(tx.update(COMPLEX, tx.init(params), params)[0], right, rtol=1e-6)


def test_cautious_decay_moves_towards_zero_only_with_the_update():
    tx = optkit.add_cautious_decayed_weights(0.5, mask={"decayed": True, "free": False})
    params = {"decayed": jnp.array([2.0, -2.0, 2.0]), "free": jnp.array([2.0])}
    before_learning_rate = {"decayed": jnp.array([1.0, 1.0, 0.0]), "free": jnp.array([1.0])}
    updates, _ = tx.update(before_learning_rate, tx.init(params), params)
    np.testing.assert_array_equal(updates["decayed"], [2.0, 1.0, 0.0])
    np.testing.assert_array_equal(updates["free"], [1.0])


def test_cautious_decay_without_parameters_says_how_to_call():
    assert_needs_parameters(optkit.add_cautious_decayed_weights(0.1), "add_cautious_decayed_weights")
