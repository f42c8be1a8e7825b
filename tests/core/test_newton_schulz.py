import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from optkit.core.newton_schulz import QUINTIC, orthogonalize
from optkit.core.stacking import map_equal_shapes


def normal(*shape, seed=0, dtype=None):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def polar_factor(x):
    left, _, right = jnp.linalg.svd(x, full_matrices=False)
    return left @ right


@pytest.mark.parametrize("shape", [(12, 16), (16, 12), (7, 7)])
def test_singular_values_come_near_one(shape):
    values = jnp.linalg.svd(orthogonalize(normal(200, *shape)), compute_uv=False)
    conditioned = values if shape[0] != shape[1] else values[:, :-1]  # the smallest one of a square matrix is near zero
    assert jnp.min(conditioned) > 0.6
    assert jnp.max(values) < 1.25


@pytest.mark.usefixtures("x64")
def test_singular_vectors_stay():
    x = normal(12, 16)
    aligned = polar_factor(x).mT @ orthogonalize(x)
    np.testing.assert_allclose(aligned, aligned.mT, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_converging_coefficients_give_the_polar_factor():
    x = normal(12, 16)
    result = orthogonalize(x, coefficients=(15 / 8, -10 / 8, 3 / 8), steps=40)
    np.testing.assert_allclose(result, polar_factor(x), atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [(12, 16), (16, 12)])
def test_it_is_the_polynomial_of_the_singular_values(shape):
    left, values, right = jnp.linalg.svd(normal(*shape), full_matrices=False)
    values /= jnp.linalg.norm(values)
    for _ in range(5):
        values = jnp.polyval(jnp.array([QUINTIC[2], 0, QUINTIC[1], 0, QUINTIC[0], 0]), values)
    np.testing.assert_allclose(orthogonalize(normal(*shape), eps=0.0), (left * values) @ right, atol=1e-12)


def test_leading_axes_hold_separate_matrices():
    x = normal(2, 3, 4, 6) * jnp.array([1e-3, 1.0, 1e3])[:, None, None]
    alone = [[orthogonalize(matrix) for matrix in row] for row in x]
    np.testing.assert_allclose(orthogonalize(x), jnp.array(alone), atol=1e-5)


def test_scale_does_not_matter_above_epsilon():
    x = normal(4, 6)
    np.testing.assert_allclose(orthogonalize(1e10 * x), orthogonalize(x), atol=1e-5)
    assert jnp.max(jnp.abs(orthogonalize(1e-12 * x))) < 0.02


def test_zeros_stay_zeros_and_nothing_stays_nothing():
    np.testing.assert_array_equal(orthogonalize(jnp.zeros((4, 6))), 0.0)
    assert orthogonalize(jnp.zeros((0, 3))).shape == (0, 3)
    assert orthogonalize(jnp.zeros((3, 0))).shape == (3, 0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_matrices_are_computed_in_float32(dtype):
    x = normal(12, 16, dtype=dtype)
    result = orthogonalize(x)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, orthogonalize(x.astype(jnp.float32)).astype(dtype))


def test_products_in_bfloat16_come_near_those_in_float32():
    x = normal(12, 16)
    result = orthogonalize(x, dtype=jnp.bfloat16)
    assert result.dtype == jnp.float32
    distance = jnp.linalg.norm(result - orthogonalize(x)) / jnp.linalg.norm(orthogonalize(x))
    assert 1e-4 < distance < 0.1


@pytest.mark.parametrize("spec", [("data", "model"), ("model", "data"), ("data", None), (None, "data")])
@pytest.mark.parametrize("shape", [(8, 16), (16, 8)])
def test_a_matrix_on_explicit_axes_stays_sharded(spec, shape):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    x = normal(1, *shape)
    with jax.set_mesh(mesh):
        sharding = NamedSharding(mesh, PartitionSpec(None, *spec))
        result = jax.jit(orthogonalize)(jax.device_put(x, sharding))
    assert result.sharding.is_equivalent_to(sharding, 3)
    np.testing.assert_allclose(result, orthogonalize(x), atol=1e-5)


def test_a_vector_is_refused():
    with pytest.raises(ValueError, match=r"x must be a matrix, .* got an array of shape \(3,\)"):
        orthogonalize(jnp.ones(3))


def test_leaves_of_equal_shape_share_a_call():
    shapes = []

    def double(x):
        shapes.append(x.shape)
        return 2 * x

    tree = {"a": normal(2, 3), "b": (normal(2, 3, seed=1), normal(4)), "c": normal(2, 3, seed=2), "d": None}
    jax.tree.map(np.testing.assert_array_equal, map_equal_shapes(double, tree), jax.tree.map(lambda x: 2 * x, tree))
    assert sorted(shapes) == [(1, 4), (3, 2, 3)]
    assert map_equal_shapes(double, {}) == {}
