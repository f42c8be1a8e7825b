"""What `directional_sharpness` and `hessian_extremes` promise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optkit

SIZE = 12
# The eigenvalues of Hessians: usual ones, all equal, two of high multiplicity, tiny, huge, none.
SPECTRA = {
    "spread": np.linspace(-2.0, 5.0, SIZE),
    "positive": np.geomspace(1e-3, 1e3, SIZE),
    "identity": np.ones(SIZE),
    "two": np.repeat([-1.0, 3.0], SIZE // 2),
    "tiny": np.linspace(-1e-30, 3e-30, SIZE),
    "huge": np.linspace(-1e25, 3e25, SIZE),
    "zero": np.zeros(SIZE),
}


def hessian(eigenvalues, seed=0):
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues),) * 2))[0]
    return (basis * eigenvalues) @ basis.T


def quadratic(params, matrix):
    """A loss of a tree of two leaves whose Hessian is a matrix."""
    vector = jnp.concatenate([params["kernel"].ravel(), params["bias"]])
    return vector @ (matrix @ vector) / 2


def tree(vector):
    return {"kernel": vector[: SIZE // 2].reshape(2, -1), "bias": vector[SIZE // 2 :]}


@functools.partial(jax.jit, static_argnames="iterations")
@functools.partial(jax.vmap, in_axes=(0, None, None))
def extremes(matrix, key, iterations):
    loss = functools.partial(quadratic, matrix=matrix)
    return optkit.hessian_extremes(loss, tree(jnp.ones(SIZE, matrix.dtype)), iterations=iterations, key=key)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_enough_iterations_find_both_extremes_of_any_spectrum(dtype):
    matrices = jnp.asarray(np.stack([hessian(values) for values in SPECTRA.values()]), dtype)
    found = jax.tree.map(np.asarray, extremes(matrices, 0, None))
    assert found.largest.dtype == dtype
    for index, values in enumerate(SPECTRA.values()):
        rounding = 20 * np.finfo(dtype).eps * np.abs(values).max()
        np.testing.assert_allclose(found.largest[index], values.max(), atol=rounding, rtol=0)
        np.testing.assert_allclose(found.smallest[index], values.min(), atol=rounding, rtol=0)
        assert found.largest_error[index] <= rounding
        assert found.smallest_error[index] <= rounding


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("iterations", [1, 4])
def test_few_iterations_stay_inside_the_spectrum_and_their_bounds_hold(iterations):
    matrices = np.stack([hessian(SPECTRA["spread"], seed) for seed in range(20)])
    found = extremes(matrices, 1, iterations)
    for value, error in ((found.largest, found.largest_error), (found.smallest, found.smallest_error)):
        nearest = np.min(np.abs(SPECTRA["spread"] - np.asarray(value)[:, None]), axis=1)
        assert np.all(nearest <= np.asarray(error) + 1e-14)
        assert np.all(np.asarray(error) > 1e-3), "the bounds are not trivial"
    assert np.all(found.smallest >= -2.0)
    assert np.all(found.largest <= 5.0)


@pytest.mark.slow
def test_another_key_starts_from_another_vector():
    matrices = jnp.asarray(hessian(SPECTRA["spread"]), jnp.float32)[None]
    first, again, other = (extremes(matrices, key, 1).largest[0] for key in (0, 0, jax.random.key(1)))
    assert first == again
    assert first != other


def test_one_parameter_is_enough():
    found = optkit.hessian_extremes(lambda x: x**3, 2.0)
    np.testing.assert_allclose(found, [12.0, 12.0, 0.0, 0.0], rtol=1e-6)


@pytest.mark.slow
def test_leaves_of_16_bits_and_empty_leaves_are_taken():
    params = {"kernel": jnp.ones(2, jnp.bfloat16), "empty": jnp.zeros((0, 3)), "none": None}
    found = optkit.hessian_extremes(lambda p: p["kernel"][0] ** 4 - p["kernel"][1] ** 2 + jnp.sum(p["empty"]), params)
    assert found.largest.dtype == jnp.float32
    np.testing.assert_allclose(found[:2], [12.0, -2.0], rtol=1e-6)


@pytest.mark.slow
def test_a_mean_over_parts_of_a_batch_is_a_loss():
    parts = np.random.default_rng(0).normal(size=(4, 8, 3)).astype(np.float32)

    def loss(params):
        return jnp.mean(jax.lax.map(lambda part: jnp.mean((part @ params) ** 2), parts))

    found = optkit.hessian_extremes(loss, jnp.zeros(3))
    rows = parts.reshape(-1, 3)
    values = np.linalg.eigvalsh(2 * rows.T @ rows / len(rows))
    np.testing.assert_allclose(found[:2], [values[-1], values[0]], rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_extremes_of_a_hessian_that_is_not_finite_are_nan(bad):
    matrix = hessian(SPECTRA["spread"])
    matrix[3, 3] = bad
    assert np.all(np.isnan(extremes(jnp.asarray(matrix, jnp.float32)[None], 0, None)))


@pytest.mark.parametrize(
    ("params", "arguments", "error", "message"),
    [
        (jnp.ones(2), {"iterations": 0}, ValueError, "iterations must be a positive integer, got 0"),
        (jnp.ones(2), {"iterations": 2.0}, ValueError, "iterations must be a positive integer, got 2.0"),
        ({}, {}, ValueError, "params must have at least one entry"),
        ({"a": jnp.ones(2, jnp.int32)}, {}, TypeError, r"the leaf \['a'\] is int32"),
        (jnp.ones(2, jnp.complex64), {}, TypeError, "hessian_extremes works on real parameters"),
    ],
)
def test_extremes_say_what_is_wrong(params, arguments, error, message):
    with pytest.raises(error, match=message):
        optkit.hessian_extremes(lambda p: jnp.sum(p**2), params, **arguments)


@jax.jit
def sharpness(matrix, direction):
    point = tree(jnp.ones(SIZE, matrix.dtype))
    return optkit.directional_sharpness(functools.partial(quadratic, matrix=matrix), point, tree(direction))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [1.0, -1e-30, 1e30])
def test_sharpness_is_that_of_the_dense_hessian_at_any_length(dtype, scale):
    matrix, direction = hessian(SPECTRA["spread"]), np.random.default_rng(1).normal(size=SIZE)
    expected = direction @ matrix @ direction / (direction @ direction)
    found = sharpness(jnp.asarray(matrix, dtype), jnp.asarray(scale * direction, dtype))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=50 * np.finfo(dtype).eps)


@pytest.mark.usefixtures("x64")
def test_sharpness_along_an_eigenvector_is_an_extreme():
    matrix = hessian(SPECTRA["spread"])
    vectors = np.linalg.eigh(matrix)[1]
    found = extremes(matrix[None], 0, None)
    np.testing.assert_allclose(sharpness(matrix, vectors[:, -1]), found.largest[0], rtol=1e-12)
    np.testing.assert_allclose(sharpness(matrix, vectors[:, 0]), found.smallest[0], rtol=1e-12)


def test_sharpness_is_taken_at_the_parameters():
    found = optkit.directional_sharpness(lambda x: jnp.sum(x**3), jnp.array([1.0, 2.0]), jnp.array([0.0, 3.0]))
    np.testing.assert_allclose(found, 12.0, rtol=1e-6)


@pytest.mark.parametrize("direction", [np.zeros(SIZE), np.full(SIZE, np.inf), np.full(SIZE, np.nan)])
def test_no_direction_has_no_sharpness(direction):
    matrix = jnp.asarray(hessian(SPECTRA["spread"]), jnp.float32)
    assert np.isnan(sharpness(matrix, jnp.asarray(direction, jnp.float32)))


@pytest.mark.parametrize("direction", [jnp.ones(3), {"a": jnp.ones(2)}, jnp.ones((2, 1))])
def test_a_direction_of_another_shape_is_refused(direction):
    with pytest.raises(ValueError, match="direction must have the structure and shapes of params, got"):
        optkit.directional_sharpness(jnp.sum, jnp.ones(2), direction)


def test_sharpness_says_which_parameters_it_takes():
    with pytest.raises(TypeError, match="directional_sharpness works on real parameters"):
        optkit.directional_sharpness(lambda x: jnp.abs(x) ** 2, 1.0j, 1.0j)
