import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from trajectories import trajectory

from optkit.core.adam import scale_by_adam
from optkit.core.amsgrad import scale_by_amsgrad

RULES = {
    "eps before": scale_by_adam(0.9, 0.99, 1e-3, eps_placement="pre"),
    "eps after": scale_by_adam(0.9, 0.99, 1e-3, eps_placement="post"),
    "largest": scale_by_amsgrad(0.9, 0.99, 1e-3),
}
of_each = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


@of_each
@pytest.mark.usefixtures("x64")
def test_complex_gradients_count_by_their_absolute_values(rule):
    real = normal(4, 5)
    turn = jnp.exp(1j * jnp.arange(5))
    turned, expected = (trajectory(rule, gradients).updates for gradients in (turn * real, real))
    np.testing.assert_allclose(turned, turn * expected, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_epsilon_after_the_correction_is_optax_adam():
    gradients = normal(4, 5) * (1 + 2j)
    theirs = trajectory(optax.scale_by_adam(0.9, 0.99, 1e-3), gradients).updates
    np.testing.assert_allclose(trajectory(RULES["eps after"], gradients).updates, theirs, rtol=1e-12)


@of_each
def test_dtypes_need_no_promotion(rule):
    gradients = jnp.ones((2, 3))
    with jax.numpy_dtype_promotion("strict"):
        assert jax.eval_shape(lambda gradients: trajectory(rule, gradients).updates, gradients).dtype == jnp.float32
