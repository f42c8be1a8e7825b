import jax.numpy as jnp
import numpy as np
import pytest

from optkit.core.linalg.svd import svd


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_matrix_that_is_not_finite_gives_nan_and_leaves_others_alone(bad):
    matrices = np.random.default_rng(0).standard_normal((2, 3, 4), np.float32)
    matrices[0, 0, 0] = bad
    for both, one in zip(svd(jnp.asarray(matrices)), svd(jnp.asarray(matrices[1])), strict=True):
        assert np.all(np.isnan(both[0]))
        np.testing.assert_array_equal(both[1], one)


def test_factors_make_the_matrix():
    matrix = np.random.default_rng(0).standard_normal((4, 3), np.float32)
    left, values, right = svd(jnp.asarray(matrix))
    np.testing.assert_allclose((left * values) @ right, matrix, atol=1e-6)
