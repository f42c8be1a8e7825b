import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import with_singular_values
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from promises import assert_computes_in_float32

from optkit.core.cost import hlo
from optkit.core.linalg.orthonormal import (
    _cholesky_passes,
    _independent,
    _inverse_of_lower,
    cholesky_qr,
    householder_qr,
    randomized_cholesky_qr,
)

BASES = (householder_qr, cholesky_qr, randomized_cholesky_qr)
# The sketch has 128 rows at least; triangular factors of more than 16 columns are inverted in halves.
SHAPES = ((1, 1), (7, 7), (40, 1), (300, 24), (300, 67))


def numpy_normal(*shape, seed=0):
    """In double precision, whatever JAX's is."""
    return np.random.default_rng(seed).standard_normal(shape)


def conditioned(rows, columns, condition, seed=0):
    return with_singular_values(np.logspace(0, -np.log10(condition), columns), rows, columns, seed=seed)


HARD = {
    "normal": numpy_normal,
    "condition 1e4": lambda m, n: conditioned(m, n, 1e4),
    "condition 1e8": lambda m, n: conditioned(m, n, 1e8),
    "condition 1e20": lambda m, n: conditioned(m, n, 1e20),
    "rank one": lambda m, n: np.outer(numpy_normal(m), numpy_normal(n, seed=1)),
    "half rank": lambda m, n: numpy_normal(m, n // 2) @ numpy_normal(n // 2, n, seed=1),
    "equal columns": lambda m, n: np.ones((m, n)),
    "zero columns": lambda m, n: numpy_normal(m, n) * (np.arange(n) % 2),
    "one entry": lambda m, n: np.eye(m, n) * (np.arange(n) < 1),
    "zero": lambda m, n: np.zeros((m, n)),
    "columns of all scales": lambda m, n: numpy_normal(m, n) * np.logspace(0, -30, n),
    "graded columns": lambda m, n: numpy_normal(m, n) * np.logspace(0, -4, n),
    "simplex": lambda m, n: np.eye(m, n) - (np.arange(m) < n)[:, None] / n,
    "Hilbert": lambda m, n: 1 / (1 + np.arange(m)[:, None] + np.arange(n)),
    "smooth columns": lambda m, n: np.cos(np.pi * (np.arange(m)[:, None] + 0.5) * np.arange(n) / m),
    "one column among zeros": lambda m, n: np.ones((m, n)) * (np.arange(n) == n - 1),
    "large": lambda m, n: 1e36 * numpy_normal(m, n),
    "small": lambda m, n: 1e-30 * numpy_normal(m, n),
}


@functools.cache
def compiled(basis):
    return jax.jit(basis)


def deviation(basis):
    """From orthonormality, in double precision."""
    basis = np.asarray(basis, np.float64)
    return np.max(np.abs(basis.mT @ basis - np.eye(basis.shape[-1])))


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("shape", SHAPES)
def test_columns_are_orthonormal_whatever_the_input(basis, shape):
    matrices = np.stack([make(*shape) for make in HARD.values()]).astype(np.float32)
    found = compiled(basis)(matrices)
    deviations = {name: deviation(x) for name, x in zip(HARD, found, strict=True)}
    assert max(deviations.values()) < 1e-5, deviations


@pytest.mark.slow
@pytest.mark.parametrize("basis", BASES)
@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), rank=st.integers(0, 24), exponent=st.floats(0, 12), scale=st.floats(-30, 30))
def test_columns_are_orthonormal_at_every_rank_and_condition(basis, seed, rank, exponent, scale):
    x = conditioned(300, 24, 10**exponent, seed) @ np.diag(np.arange(24) < rank) * 10**scale
    assert deviation(compiled(basis)(x.astype(np.float32))) < 1e-5


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("name", HARD)
def test_the_columns_are_spanned(basis, name):
    x = HARD[name](300, 24).astype(np.float32).astype(np.float64)
    q = np.asarray(compiled(basis)(x.astype(np.float32)), np.float64)
    # How far the basis is from orthonormal, which depends on how a machine sums products, is another test's.
    span = np.linalg.qr(q)[0]
    rest = x - span @ (span.T @ x)
    # The inverse of a nearly singular factor of the sketch costs digits that reflections and shifted passes keep.
    most = 400 if (basis, name) == (randomized_cholesky_qr, "Hilbert") else 20
    assert np.linalg.norm(rest) <= most * np.finfo(np.float32).eps * np.linalg.norm(x)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(300, 24), (1024, 64)])
def test_two_passes_do_for_a_well_conditioned_matrix(shape):
    passes = jax.jit(lambda x: _cholesky_passes(_independent(x))[1])(numpy_normal(*shape).astype(np.float32))
    assert passes == 2


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("size", [1, 2, 16, 17, 50, 67])
def test_triangular_matrices_are_inverted_by_products(size):
    factor = np.linalg.cholesky(np.cov(numpy_normal(3, size, 3 * size)[0]).reshape(size, size))
    factor = np.stack([factor, np.tril(numpy_normal(size, size)) / size + np.eye(size)])
    inverse = np.asarray(jax.jit(_inverse_of_lower)(factor))
    np.testing.assert_allclose(inverse @ factor, np.stack([np.eye(size)] * 2), atol=1e-12)
    np.testing.assert_array_equal(inverse, np.tril(inverse))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 4])
def test_rows_may_be_spread_over_devices(devices):
    x = np.stack([HARD["normal"](304, 24), HARD["condition 1e8"](304, 24)]).astype(np.float32)
    shards = np.stack(np.split(x, devices, axis=1))
    over_devices = jax.vmap(functools.partial(cholesky_qr, axis_name="devices"), axis_name="devices")
    found = np.concatenate(jax.jit(over_devices)(shards), axis=1)
    assert deviation(found) < 1e-5
    np.testing.assert_allclose(found[0], compiled(cholesky_qr)(x[0]), atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("basis", BASES)
def test_bases_are_equal_but_for_signs(basis):
    x = numpy_normal(3, 300, 24)
    expected, found = np.linalg.qr(x)[0], np.asarray(compiled(basis)(x))
    signs = np.sign(np.sum(expected * found, axis=-2, keepdims=True))
    np.testing.assert_allclose(found, signs * expected, atol=1e-12)
    assert deviation(found[0]) < 1e-13


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_matrices_are_computed_in_float32(basis, dtype):
    assert_computes_in_float32(basis, jnp.asarray(numpy_normal(150, 8), dtype))


@pytest.mark.parametrize("basis", BASES)
def test_not_a_number_does_not_hang(basis):
    assert np.all(np.isnan(compiled(basis)(np.full((150, 8), np.nan, np.float32))))


@pytest.mark.parametrize("basis", BASES)
def test_wide_matrices_are_refused(basis):
    with pytest.raises(ValueError, match=r"at least as many rows as columns, got an array of shape \(3, 4\)"):
        basis(jnp.ones((3, 4)))


@pytest.mark.slow
@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_sharded_matrices_have_the_same_basis(basis, axis_type):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    x = jnp.asarray(numpy_normal(2, 304, 24), jnp.float32)
    sharding = NamedSharding(mesh, PartitionSpec(None, "data", None))
    with jax.set_mesh(mesh):
        found = compiled(basis)(jax.device_put(x, sharding))
    np.testing.assert_allclose(np.abs(found), np.abs(compiled(basis)(x)), atol=2e-5)
    if axis_type == AxisType.Explicit:
        assert found.sharding.is_equivalent_to(sharding, 3)


@pytest.mark.slow
@pytest.mark.parametrize("basis", [cholesky_qr, randomized_cholesky_qr])
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_rows_are_not_gathered(basis, axis_type):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    sharding = NamedSharding(mesh, PartitionSpec("data", None))
    x = jax.ShapeDtypeStruct((1024, 16), jnp.float32, sharding=sharding)
    with jax.set_mesh(mesh):
        lowered = jax.jit(basis, out_shardings=sharding).lower(x)
        sent = hlo.read(lowered.compile(), lowered).sent
    assert set(sent) == {"all-reduce"}


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("basis", BASES)
def test_complex_columns_are_orthonormal_and_spanned(basis):
    x = numpy_normal(2, 300, 24) + 1j * numpy_normal(2, 300, 24, seed=1)
    q = np.asarray(compiled(basis)(x))
    adjoint = q.conj().swapaxes(-2, -1)
    np.testing.assert_allclose(adjoint @ q, np.broadcast_to(np.eye(24), (2, 24, 24)), atol=1e-12)
    np.testing.assert_allclose(q @ (adjoint @ x), x, atol=1e-11)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("imaginary", [0, 1j])
def test_the_derivative_of_cholesky_qr_is_that_of_its_columns(imaginary):
    x, change = (numpy_normal(6, 3, seed=seed) + imaginary * numpy_normal(6, 3, seed=seed + 2) for seed in (0, 1))
    derivative = jax.jit(lambda x, change: jax.jvp(cholesky_qr, (x,), (change,))[1])(x, change)
    small, basis = 1e-6, compiled(cholesky_qr)
    difference = (np.asarray(basis(x + small * change)) - np.asarray(basis(x - small * change))) / (2 * small)
    np.testing.assert_allclose(derivative, difference, atol=1e-8)


@pytest.mark.slow
def test_the_derivative_of_cholesky_qr_is_finite_for_dependent_columns():
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(cholesky_qr(x) ** 3)))
    assert np.all(np.isfinite(gradient(HARD["half rank"](20, 4).astype(np.float32))))
