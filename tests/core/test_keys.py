import jax
import numpy as np
import pytest

from optkit.core.keys import key_data, split


@pytest.mark.parametrize("key", [7, jax.random.key(7), jax.random.PRNGKey(7)], ids=["integer", "typed", "raw"])
def test_all_kinds_of_keys_draw_alike(key):
    data, fresh = split(key_data(key), key)
    expected_data, expected = split(key_data(7), 7)
    np.testing.assert_array_equal(data, expected_data)
    assert jax.random.uniform(fresh) == jax.random.uniform(expected)


def test_a_key_keeps_its_implementation():
    key = jax.random.key(0, impl="rbg")
    data, fresh = split(key_data(key), key)
    assert data.shape == (4,)
    assert jax.random.key_impl(fresh) == jax.random.key_impl(key)


def test_draws_differ_from_step_to_step():
    data, first = split(key_data(0), 0)
    _, second = split(data, 0)
    assert jax.random.uniform(first) != jax.random.uniform(second)
