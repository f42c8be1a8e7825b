import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optkit.core.adam import scale_by_adam
from optkit.core.amsgrad import scale_by_amsgrad

RULES = {
    "eps before": scale_by_adam(0.9, 0.99, 1e-3, eps_placement="pre"),
    "eps after": scale_by_adam(0.9, 0.99, 1e-3, eps_placement="post"),
    "largest": scale_by_amsgrad(0.9, 0.99, 1e-3),
}
of_each = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def updates(tx, gradients):
    def step(state, gradient):
        update, state = tx.update(gradient, state)
        return state, update

    return jax.lax.scan(step, tx.init(gradients[0]), gradients)[1]


@of_each
@pytest.mark.usefixtures("x64")
def test_complex_gradients_count_by_their_absolute_values(rule):
    real = jnp.asarray(np.random.default_rng(0).standard_normal((4, 5)))
    turn = jnp.exp(1j * jnp.arange(5))
    np.testing.assert_allclose(updates(rule, turn * real), turn * updates(rule, real), atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_epsilon_after_the_correction_is_optax_adam():
    gradients = jnp.asarray(np.random.default_rng(0).standard_normal((4, 5))) * (1 + 2j)
    theirs = updates(optax.scale_by_adam(0.9, 0.99, 1e-3), gradients)
    np.testing.assert_allclose(updates(RULES["eps after"], gradients), theirs, rtol=1e-12)


@of_each
def test_dtypes_need_no_promotion(rule):
    gradients = jnp.ones((2, 3))
    with jax.numpy_dtype_promotion("strict"):
        assert jax.eval_shape(lambda gradients: updates(rule, gradients), gradients).dtype == jnp.float32
