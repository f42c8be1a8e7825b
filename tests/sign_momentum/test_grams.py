import jax.numpy as jnp
import numpy as np
import optax

import optkit

COMPLEX = jnp.array([1j, -1, 1 - 1j, -1 + 2j])


def test_grams_stands_still_at_a_zero_gradient():
    tx = optkit.grams(optax.sgd(0.1, momentum=0.9))
    params = jnp.ones(2)
    _, state = tx.update(params, tx.init(params), params)
    np.testing.assert_array_equal(tx.update(jnp.zeros(2), state, params)[0], jnp.zeros(2))


def test_grams_takes_the_direction_of_complex_gradients():
    tx = optkit.grams(optax.stateless(lambda *_: jnp.full(4, 3.0 + 4.0j)), before_learning_rate=True)
    updates, _ = tx.update(COMPLEX, tx.init(COMPLEX), COMPLEX)
    np.testing.assert_allclose(updates, 5 * COMPLEX / jnp.abs(COMPLEX), rtol=1e-6)
