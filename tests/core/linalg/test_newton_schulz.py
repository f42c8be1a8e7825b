import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normal, with_singular_values
from hypothesis import given, settings
from hypothesis import strategies as st
from promises import assert_computes_in_float32, assert_keeps_explicit_sharding

from optkit.core.linalg.newton_schulz import (
    POLAR_EXPRESS,
    QUINTIC,
    QUINTIC_DION,
    gram_newton_schulz,
    newton_schulz,
    polar_express,
)
from optkit.core.stacking import map_equal_shapes


@functools.cache
def compiled(function, **arguments):
    return jax.jit(functools.partial(function, **arguments))


def polar_factor(x):
    left, _, right = np.linalg.svd(x, full_matrices=False)
    return left @ right


@pytest.mark.parametrize("shape", [(12, 16), (16, 12), (7, 7)])
def test_singular_values_come_near_one(shape):
    values = np.linalg.svd(compiled(newton_schulz)(normal(200, *shape)), compute_uv=False)
    conditioned = values if shape[0] != shape[1] else values[:, :-1]  # the smallest one of a square matrix is near zero
    assert np.min(conditioned) > 0.6
    assert np.max(values) < 1.25


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_singular_vectors_stay():
    x = normal(12, 16)
    aligned = polar_factor(x).mT @ np.asarray(compiled(newton_schulz)(x))
    np.testing.assert_allclose(aligned, aligned.mT, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_converging_coefficients_give_the_polar_factor():
    x = normal(12, 16)
    result = compiled(newton_schulz, coefficients=(15 / 8, -10 / 8, 3 / 8), steps=40)(x)
    np.testing.assert_allclose(result, polar_factor(x), atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [(12, 16), (16, 12)])
def test_it_is_the_polynomial_of_the_singular_values(shape):
    x = normal(*shape)
    left, values, right = np.linalg.svd(x, full_matrices=False)
    values /= np.linalg.norm(values)
    for _ in range(5):
        values = np.polyval([QUINTIC[2], 0, QUINTIC[1], 0, QUINTIC[0], 0], values)
    np.testing.assert_allclose(compiled(newton_schulz, eps=0.0)(x), (left * values) @ right, atol=1e-12)


@pytest.mark.slow
def test_leading_axes_hold_separate_matrices():
    x = np.asarray(normal(2, 3, 4, 6)) * np.float32([1e-3, 1.0, 1e3])[:, None, None]
    alone = [[compiled(newton_schulz)(matrix) for matrix in row] for row in x]
    np.testing.assert_allclose(compiled(newton_schulz)(x), np.array(alone), atol=1e-5)


def test_scale_does_not_matter_above_epsilon():
    x, orthogonal = normal(4, 6), compiled(newton_schulz)
    np.testing.assert_allclose(orthogonal(1e10 * x), orthogonal(x), atol=1e-5)
    assert np.max(np.abs(orthogonal(1e-12 * x))) < 0.02


def test_zeros_stay_zeros_and_nothing_stays_nothing():
    np.testing.assert_array_equal(newton_schulz(jnp.zeros((4, 6))), 0.0)
    assert newton_schulz(jnp.zeros((0, 3))).shape == (0, 3)
    assert newton_schulz(jnp.zeros((3, 0))).shape == (3, 0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_matrices_are_computed_in_float32(dtype):
    assert_computes_in_float32(newton_schulz, normal(12, 16, dtype=dtype))


def test_products_in_bfloat16_come_near_those_in_float32():
    x = normal(12, 16)
    result, exact = compiled(newton_schulz, dtype=jnp.bfloat16)(x), np.asarray(compiled(newton_schulz)(x))
    assert result.dtype == jnp.float32
    distance = np.linalg.norm(result - exact) / np.linalg.norm(exact)
    assert 1e-4 < distance < 0.1


@pytest.mark.parametrize("spec", [("data", "model"), ("model", "data"), ("data", None), (None, "data")])
@pytest.mark.parametrize("shape", [(8, 16), (16, 8)])
def test_a_matrix_on_explicit_axes_stays_sharded(spec, shape):
    assert_keeps_explicit_sharding(newton_schulz, normal(1, *shape), (None, *spec), rtol=1e-7, atol=1e-5)


def test_a_vector_is_refused():
    with pytest.raises(ValueError, match=r"x must be a matrix, .* got an array of shape \(3,\)"):
        newton_schulz(jnp.ones(3))


@pytest.mark.slow
def test_leaves_of_equal_shape_share_a_call():
    shapes = []

    def double(x):
        shapes.append(x.shape)
        return 2 * x

    tree = {"a": normal(2, 3), "b": (normal(2, 3, seed=1), normal(4)), "c": normal(2, 3, seed=2), "d": None}
    jax.tree.map(np.testing.assert_array_equal, map_equal_shapes(double, tree), jax.tree.map(lambda x: 2 * x, tree))
    assert sorted(shapes) == [(1, 4), (3, 2, 3)]
    assert map_equal_shapes(double, {}) == {}


# On products of rows

PUBLISHED = ((QUINTIC, 1.0, 0.68, 1.20), (QUINTIC_DION, 1.0, 0.98, 1.14), (POLAR_EXPRESS, 1.02, 0.86, 1.14))


def products_in(function, x):
    return str(jax.make_jaxpr(function)(x)).count("dot_general")


@pytest.mark.parametrize(("shape", "plain", "gram"), [
    ((16, 16), 15, 15), ((16, 23), 15, 15), ((16, 64), 15, 18), ((64, 16), 15, 18),
])  # fmt: skip
def test_products_of_rows_take_fewer_operations_or_are_not_taken(shape, plain, gram):
    assert products_in(newton_schulz, normal(*shape)) == plain
    assert products_in(gram_newton_schulz, normal(*shape)) == gram
    operations = [
        jax.jit(function).lower(normal(*shape)).compile().cost_analysis()["flops"]
        for function in (gram_newton_schulz, newton_schulz)
    ]
    assert operations[0] <= operations[1]


NUMBERS_OF_STEPS = (0, 1, 2, 3, 5, 9)


@functools.cache
def by_either_way(shape):
    """Products of rows and the plain iteration, for all numbers of steps in one program."""
    arguments = {"coefficients": QUINTIC_DION, "norm_factor": 1.1, "eps": 1e-3}

    @jax.jit
    def run(x):
        return {
            steps: [function(x, steps=steps, **arguments) for function in (gram_newton_schulz, newton_schulz)]
            for steps in NUMBERS_OF_STEPS
        }

    return run(normal(*shape))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [(5, 40), (40, 5), (2, 3, 6, 20), (1, 9), (0, 3), (3, 0)])
@pytest.mark.parametrize("steps", NUMBERS_OF_STEPS)
def test_products_of_rows_give_the_same_matrix(shape, steps):
    found, expected = by_either_way(shape)[steps]
    np.testing.assert_allclose(found, expected, atol=1e-11)


@pytest.mark.parametrize(("coefficients", "norm_factor", "low", "high"), PUBLISHED)
@pytest.mark.parametrize("shape", [(64, 64), (64, 256), (256, 64)])
@pytest.mark.parametrize("function", [newton_schulz, gram_newton_schulz])
def test_five_steps_bring_singular_values_into_the_published_range(
    function, coefficients, norm_factor, low, high, shape
):
    x = with_singular_values(np.logspace(0, -2, 64), *shape).astype(np.float32)
    found = compiled(function, coefficients=coefficients, norm_factor=norm_factor)(x)
    values = np.linalg.svd(found, compute_uv=False)
    assert abs(np.min(values) - low) < 0.02
    assert abs(np.max(values) - high) < 0.02


@pytest.mark.parametrize(("coefficients", "norm_factor", "low", "high"), PUBLISHED)
@pytest.mark.parametrize("function", [newton_schulz, gram_newton_schulz])
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), exponent=st.floats(0, 8), rank=st.integers(1, 12), tall=st.booleans())
def test_every_singular_value_is_that_of_the_polynomial(
    function, coefficients, norm_factor, low, high, seed, exponent, rank, tall
):
    values = 10 ** -np.random.default_rng(seed).uniform(0, exponent, 12) * (np.arange(12) < rank)
    x = with_singular_values(values, *((48, 12) if tall else (12, 48)), seed=seed).astype(np.float32)
    found = np.asarray(compiled(function, coefficients=coefficients, norm_factor=norm_factor)(x), np.float64)
    scaled = values / (np.linalg.norm(values) * norm_factor + 1e-7)
    expected, triples = scaled, np.reshape(coefficients, (-1, 3))
    for step in range(5):
        a, b, c = triples[min(step, len(triples) - 1)]
        expected = a * expected + b * expected**3 + c * expected**5
    np.testing.assert_allclose(np.linalg.svd(found, compute_uv=False), np.sort(expected)[::-1], atol=2e-4)
    # Those that are not too small come near one.
    settled = expected[scaled > 1 / 200]
    assert np.all((low - 0.02 < settled) & (settled < high + 0.02))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("function", [gram_newton_schulz, polar_express])
def test_products_of_rows_are_of_float32(function, dtype):
    assert_computes_in_float32(function, normal(12, 48, dtype=dtype))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("spec", [("data", "model"), ("model", "data"), ("data", None), (None, "data")])
@pytest.mark.parametrize("shape", [(8, 32), (32, 8)])
def test_products_of_rows_on_explicit_axes_stay_sharded(spec, shape):
    x = normal(1, *shape, dtype=jnp.float64)
    assert_keeps_explicit_sharding(gram_newton_schulz, x, (None, *spec), atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e25])
def test_products_of_rows_that_leave_the_range_of_numbers_give_zeros(size):
    orthogonal = compiled(gram_newton_schulz)
    np.testing.assert_allclose(orthogonal(np.full((3, 12), size, np.float32)), 0.0, atol=1e-10)
    assert np.all(np.isnan(orthogonal(np.full((3, 12), np.nan, np.float32))))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("function", [newton_schulz, gram_newton_schulz, polar_express])
@pytest.mark.parametrize("shape", [(4, 5), (3, 20), (20, 3)])
def test_complex_matrices_keep_their_singular_vectors(function, shape):
    x = np.asarray(normal(2, *shape)) + 1j * np.asarray(normal(2, *shape, seed=1))
    left, values, right = np.linalg.svd(x, full_matrices=False)
    seen = left.conj().mT @ np.asarray(compiled(function)(x)) @ right.conj().mT
    # Of a diagonal matrix it gives a diagonal one, with the polynomials of the entries.
    expected = compiled(function)(np.eye(min(shape)) * values[..., None, :])
    np.testing.assert_allclose(seen, expected, atol=1e-8)


def test_complex_matrices_cannot_be_rounded_to_real_numbers():
    with pytest.raises(TypeError, match="dtype must be complex for complex matrices, got bfloat16"):
        newton_schulz(normal(3, 2) + 1j, dtype=jnp.bfloat16)


@pytest.mark.parametrize("function", [newton_schulz, gram_newton_schulz])
@pytest.mark.parametrize("steps", [-1, 2.5])
def test_steps_must_be_a_number_of_steps(function, steps):
    with pytest.raises(ValueError, match=f"steps must be an integer of at least 0, got {steps}"):
        function(normal(3, 2), steps=steps)
