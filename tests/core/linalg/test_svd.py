import numpy as np
import pytest
from draws import normal

from optkit.core.linalg.svd import svd


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_matrix_that_is_not_finite_gives_nan_and_leaves_others_alone(bad):
    matrices = normal(2, 3, 4).at[0, 0, 0].set(bad)
    for both, one in zip(svd(matrices), svd(matrices[1]), strict=True):
        assert np.all(np.isnan(both[0]))
        np.testing.assert_array_equal(both[1], one)


def test_factors_make_the_matrix():
    matrix = normal(4, 3)
    left, values, right = svd(matrix)
    np.testing.assert_allclose((left * values) @ right, matrix, atol=1e-6)
