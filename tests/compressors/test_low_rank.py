import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal, normal_like, with_singular_values
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from round_trips import round_trip, sent
from trajectories import flat

from optkit import compressors
from optkit.compressors import low_rank, nbytes
from optkit.core.linalg.factors import next_basis

ROWS, COLUMNS = 8, 6
MATRIX = normal(ROWS, COLUMNS)
RANK_2 = low_rank(2)
NUMBERS = {"kernel": optax.contrib.MuonDimensionNumbers(0, 1), "stack": optax.contrib.MuonDimensionNumbers(1, 2)}
TREE = {
    "kernel": MATRIX,
    "stack": normal(2, 5, 7),
    "bias": normal(3),
    "scalar": jnp.array(-0.7),
    "none": None,
    "empty": jnp.zeros((0, 3)),
}
NUMBERS |= dict.fromkeys(["bias", "scalar", "empty", "none"])


def test_it_is_a_projection_on_columns():
    part = np.asarray(sent(RANK_2, MATRIX))
    assert np.linalg.matrix_rank(part, tol=1e-4) == 2
    # What is lost is orthogonal to what is sent, so that neither is longer than the matrix.
    np.testing.assert_allclose(part.T @ (MATRIX - part), 0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 6), (6, 8), (3, 8, 6)])
def test_what_has_the_rank_is_sent_exactly(shape):
    *_, rows, columns = shape
    matrix = with_singular_values([3.0, 0.5], rows, columns).astype(np.float32)
    numbers, matrices = optax.contrib.MuonDimensionNumbers(-2, -1), np.broadcast_to(matrix, shape)
    np.testing.assert_allclose(sent(low_rank(2, weight_dimension_numbers=numbers), matrices), matrices, atol=1e-5)


@pytest.mark.slow
def test_it_continues_where_it_ended_and_finds_the_best_approximation():
    values = np.array([8.0, 4.0, 1.0, 0.5, 0.2, 0.1])
    compressor, matrix = RANK_2, jnp.asarray(with_singular_values(values, ROWS, COLUMNS), jnp.float32)

    def step(state, _):
        arrived, state, _ = round_trip(compressor, matrix, state)
        return state, jnp.linalg.norm(arrived - matrix)

    distances = jax.jit(lambda state: jax.lax.scan(step, state, length=20)[1])(compressor.init(matrix))
    best = np.linalg.norm(values[2:])
    assert distances[0] > 1.05 * best
    np.testing.assert_allclose(distances[-1], best, rtol=1e-3)


@pytest.mark.slow
def test_all_other_leaves_are_sent_whole():
    compressor = low_rank(2, weight_dimension_numbers=NUMBERS)
    arrived, state, message = round_trip(compressor, TREE)
    for name in ("bias", "scalar", "empty"):
        np.testing.assert_array_equal(message.whole[name], TREE[name])
        assert message.left[name] is message.right[name] is state[name] is None
    assert message.whole["kernel"] is message.whole["stack"] is None
    assert nbytes(compressor, TREE) == 4 * (2 * (ROWS + COLUMNS) + 2 * 2 * (5 + 7) + 3 + 1)
    assert jax.tree.map(jnp.shape, arrived) == jax.tree.map(jnp.shape, TREE)
    assert sent(compressor, {}) == {}


def test_matrices_that_are_not_longer_than_the_rank_are_sent_whole():
    compressor, matrix = low_rank(), np.asarray(MATRIX)
    np.testing.assert_array_equal(sent(compressor, matrix[:, :4]), matrix[:, :4])
    assert compressor.init(matrix[:, :4]) is None
    assert compressor.init(matrix[:, :5]).shape == (5, 4)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("transposed", [False, True])
def test_windows_of_messages_are_those_of_the_decompressed_trees(transposed):
    like = {name: x.T if transposed and name == "kernel" else x for name, x in TREE.items()}
    compressor = low_rank(2, weight_dimension_numbers=NUMBERS)
    trees = [normal_like(jax.tree.map(lambda x: x.astype(float), like), seed) for seed in range(4)]
    arrived, _, messages = zip(*(round_trip(compressor, tree) for tree in trees[:3]), strict=True)
    rows, whole = jax.tree.map(lambda *x: np.stack(x), *messages), np.stack([flat(tree) for tree in arrived])
    products = jax.jit(compressor.inner_products)(rows, trees[3])
    np.testing.assert_allclose(products, whole @ flat(trees[3]), rtol=1e-12)
    weights = np.array([2.0, -1.0, 0.5])
    combined = jax.jit(compressor.combine)(weights, rows, trees[3])
    np.testing.assert_allclose(flat(combined), weights @ whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**83])
def test_neither_tiny_nor_huge_entries_are_lost(scale):
    """Where one step ends the next one begins, so that squares must not show."""
    for tree in (MATRIX, jnp.zeros_like(MATRIX)):
        first, state, _ = round_trip(RANK_2, tree)
        scaled, scaled_state, _ = round_trip(RANK_2, scale * tree)
        np.testing.assert_allclose(scaled / scale, first, atol=1e-5)
        np.testing.assert_allclose(scaled_state, state, atol=1e-4)


def test_what_is_not_finite_shows_and_does_not_stay():
    for bad in (jnp.nan, jnp.inf):
        arrived, state, _ = round_trip(RANK_2, MATRIX.at[2, 3].set(bad))
        assert not np.isfinite(arrived[2, 3])
        assert np.all(np.isfinite(round_trip(RANK_2, MATRIX, state).sent))


def test_16_bits_are_factored_in_32():
    arrived, state, message = round_trip(RANK_2, MATRIX.astype(jnp.bfloat16))
    assert (message.left.dtype, message.right.dtype, state.dtype) == (jnp.float32,) * 3
    assert arrived.dtype == jnp.bfloat16


def test_complex_matrices_are_projected():
    matrix = np.asarray(MATRIX) + 1j * np.asarray(normal(ROWS, COLUMNS, seed=1))
    part = np.asarray(sent(RANK_2, matrix))
    np.testing.assert_allclose(part.conj().T @ (matrix - part), 0, atol=1e-5)


@pytest.mark.slow
def test_leaves_sharded_over_explicit_axes_keep_their_sharding_and_are_not_gathered():
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    compressor, x = RANK_2, normal(16, 12)
    placed = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data", "model")))
    with jax.set_mesh(mesh):
        program = jax.jit(lambda x: sent(compressor, x)).lower(placed).compile()
        arrived = program(placed)
    assert arrived.sharding == placed.sharding
    assert "f32[16,12]" not in program.as_text()
    np.testing.assert_allclose(arrived, sent(compressor, x), atol=1e-5)


@pytest.mark.slow
def test_with_error_feedback_nothing_is_lost():
    compressor = low_rank(1)
    gradients = np.asarray(normal(4, ROWS, COLUMNS))
    error, state, arrived = np.zeros_like(MATRIX), compressor.init(MATRIX), 0
    for gradient in gradients:
        part, state, _ = round_trip(compressor, error + gradient, state)
        error, arrived = error + gradient - np.asarray(part), arrived + np.asarray(part)
    np.testing.assert_allclose(arrived + error, gradients.sum(axis=0), atol=1e-5)


def test_columns_without_direction_are_those_of_before():
    last = normal(ROWS, 3)
    factor = normal(ROWS, 3, seed=1).at[:, 1].set(1e-12)
    following = jax.jit(next_basis)
    basis = np.asarray(following(factor, last))
    np.testing.assert_array_equal(basis[:, 1], last[:, 1])
    np.testing.assert_allclose(np.max(np.abs(basis), axis=0)[[0, 2]], 1, rtol=1e-6)
    for bad in (jnp.nan, jnp.inf):
        np.testing.assert_array_equal(following(factor.at[0, 0].set(bad), last), last)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="rank must be a positive integer, got 0"):
        low_rank(0)
    with pytest.raises(TypeError, match=r"rank.*static_args"):
        low_rank(jnp.array(2))
    with pytest.raises(ValueError, match=r"^low_rank takes leaves of two axes for matrices, and the leaf 'scale'"):
        compressors.low_rank().init({"scale": jnp.ones((6, 8))})
