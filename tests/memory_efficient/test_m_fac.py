import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal_like
from golden_files import assert_replays, replays
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from promises import assert_state_is_window_and_inner_products, assert_window_needs_compressed_gradients
from trajectories import compiled_first_update, flat, flat_rows, last, last_update, trajectory

from optkit import cost
from optkit.compressors import global_top_k
from optkit.memory_efficient._error_feedback import error_feedback
from optkit.memory_efficient._gradient_window import GradientWindow
from optkit.memory_efficient._m_fac import ScaleByMFacState, m_fac, scale_by_m_fac
from optkit.memory_efficient._sparse_m_fac import sparse_m_fac
from optkit.testing import golden


def recorded_optimizer(recording):
    recorded = recording.hyperparams
    recorded.word("precondition", ("sparse accumulator",), None)
    assert recorded["flatten_order"] == sorted(recording.tree("params0"))
    rate, decay, damping, window = (recorded[name] for name in ("learning_rate", "weight_decay", "damp", "window"))
    sparse = recorded.take_recorded("density")
    # Both others precondition (c + decay * W), but with the inner products of c alone.
    modes = {"reg: preconditions (topk + weight_decay*params)": "reg", "both": "both"}
    mode = recorded.word("wd_type", modes, "wd")
    momentum = recorded["momentum"]
    if mode == "wd":  # W *= 1 - decay, whatever the learning rate
        optimizer = sparse_m_fac if sparse else m_fac
        return optimizer(rate, window, damping, momentum=momentum or None, weight_decay=decay / rate, **sparse)
    compressor = global_top_k(**sparse) if sparse else None
    scale = scale_by_m_fac(window, damping, compressor=compressor)
    return optax.chain(
        scale if compressor is None else error_feedback(scale, compressor),
        optax.add_decayed_weights(decay / damping),
        optax.trace(momentum),
        optax.add_decayed_weights(decay / rate if mode == "both" else 0.0),
        optax.scale_by_learning_rate(rate),
    )


@pytest.mark.slow
@replays("mfac", "efcp_mfac")
def test_golden_m_fac(recording):
    assert_replays(recording, golden.replay_gradients(recorded_optimizer(recording), recording))


@pytest.mark.slow
@replays("efcp_mfac")
def test_golden_error_of_sparse_m_fac(recording):
    params = jax.tree.map(jnp.asarray, recording.tree("params0"))
    states = trajectory(recorded_optimizer(recording), recording.tree("grads"), params).states
    assert_replays(recording, flat(last(optax.tree.get(states, "error"))), "final_state.error")


SHAPES = {"kernel": (6, 4), "convolution": (2, 3, 2, 2), "scalar": (), "bias": (5,), "empty": (0, 3)}
LIKE = {**{name: np.zeros(shape) for name, shape in SHAPES.items()}, "none": None}


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("steps", [1, 3, 4, 9])
@pytest.mark.parametrize("damping", [1e-6, 0.1])
def test_the_update_solves_the_damped_system(steps, damping):
    window = 4
    gradients = normal_like(LIKE, rows=(steps,))
    updates = last_update(scale_by_m_fac(window, damping), gradients)
    rows = flat_rows(gradients)[-window:]
    fisher = damping * np.eye(rows.shape[1]) + rows.T @ rows / window
    np.testing.assert_allclose(fisher @ flat(updates), rows[-1], atol=1e-10)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_sparse_update_solves_it_for_the_sparse_window():
    window, damping, compressor = 4, 0.1, global_top_k(0.25)
    tx = error_feedback(scale_by_m_fac(window, damping, compressor=compressor), compressor)
    gradients = normal_like(LIKE, rows=(6,))
    rows = flat_rows(trajectory(error_feedback(optax.identity(), compressor), gradients).updates)[-window:]
    fisher = damping * np.eye(rows.shape[1]) + rows.T @ rows / window
    np.testing.assert_allclose(fisher @ flat(last_update(tx, gradients)), rows[-1], atol=1e-10)


@pytest.mark.slow
def test_everything_kept_is_the_whole_window():
    gradients = normal_like(LIKE, rows=(6,))
    compressor = global_top_k(1.0)
    sparse = last_update(error_feedback(scale_by_m_fac(3, 0.1, compressor=compressor), compressor), gradients)
    whole = last_update(scale_by_m_fac(3, 0.1), gradients)
    np.testing.assert_allclose(flat(sparse), flat(whole), rtol=1e-4, atol=1e-6)


def close_gradients(number, spread):
    """Gradients that are nearly one: the matrix of their inner products is singular in float32."""
    rng = np.random.default_rng(0)
    common = rng.standard_normal(300)
    return [(common + spread * rng.standard_normal(300)).astype(np.float32) for _ in range(number)]


@pytest.mark.parametrize("window", [2, 256])
def test_a_singular_window_in_float32_gives_the_update_of_the_least_damping(window):
    """What `damping=1e-7` cannot do in float32 is done with more damping, not wrongly."""
    update = jax.jit(scale_by_m_fac(window, 1e-7).update)
    for spread in (0.0, 1e-7, 1e-5, 1e-3):
        gradients = np.stack(close_gradients(window, spread)).astype(np.float64)
        rows, newest = jnp.asarray(gradients, jnp.float32), gradients[-1]
        full = GradientWindow(jnp.array(window - 1), rows, jnp.dot(rows, rows.T, precision="highest"))
        updates, _ = update(rows[-1], ScaleByMFacState(full))
        gram = gradients @ gradients.T
        least = 8 * np.finfo(np.float32).eps * math.sqrt(window) * np.diag(gram)
        weights = np.linalg.solve(gram / window + np.diag(least), np.eye(window)[-1])
        expected = weights @ gradients
        # Rounding of eps * sqrt(window) beside a least damping of 8 times that, and a factor of 2.
        assert np.linalg.norm(updates - expected) <= 2 / 8 * np.linalg.norm(expected)
        assert 0.75 <= updates @ newest <= 1.25 * window  # g^T F^-1 g, where g g^T / window <= F


@pytest.mark.slow
@pytest.mark.parametrize("damping", [1e-7, 1e-4])
def test_float32_agrees_with_float64_where_the_window_is_not_singular(damping):
    gradients = normal_like(LIKE, rows=(20,))
    narrow = last_update(scale_by_m_fac(16, damping), gradients)
    with jax.enable_x64(True):
        wide = last_update(scale_by_m_fac(16, damping), jax.tree.map(lambda x: x.astype(float), gradients))
    # The least damping adds 16 * 8 * sqrt(16) * eps = 6e-5 to the squares, whose condition is below 10.
    np.testing.assert_allclose(flat(narrow), flat(wide), atol=6e-4 * np.max(np.abs(flat(wide))))


@pytest.mark.slow
def test_a_gradient_far_larger_than_the_others_leaves_their_updates_alone():
    small = normal_like(LIKE, rows=(3,))
    large = jax.tree.map(lambda x: np.float32(1e6) * np.asarray(x), normal_like(LIKE, 9))
    expected = last_update(scale_by_m_fac(4, 0.1), small)
    both = jax.tree.map(lambda x, others: np.concatenate([x[None], others]), large, small)
    updates = last_update(scale_by_m_fac(4, 0.1), both)
    direction = flat(large) / np.linalg.norm(flat(large))
    remaining = flat(expected) - direction * (direction @ flat(expected))
    cosine = flat(updates) @ remaining / np.linalg.norm(flat(updates)) / np.linalg.norm(remaining)
    assert cosine > 0.95


@pytest.mark.slow
def test_gradients_of_zero_give_updates_of_zero():
    zeros = jax.tree.map(np.zeros_like, normal_like(LIKE, rows=(2,)))
    for tx in (m_fac(0.1, 3), sparse_m_fac(0.1, 3, density=0.1)):
        np.testing.assert_array_equal(flat(last_update(tx, zeros)), 0.0)


@pytest.mark.parametrize("tx", [m_fac(0.1, 3), sparse_m_fac(0.1, 3)])
def test_empty_trees_are_left_alone(tx):
    assert compiled_first_update(tx, {}, {}) == {}


def test_a_window_of_one_is_the_inverse_of_one_outer_product():
    gradients = normal_like(LIKE, rows=(2,))
    updates = last_update(scale_by_m_fac(1, 0.5), gradients)
    gradient = flat_rows(gradients)[-1]
    expected = gradient / (0.5 + np.sum(gradient**2))
    np.testing.assert_allclose(flat(updates), expected, rtol=1e-4)


@pytest.mark.slow
def test_momentum_sums_the_updates():
    gradients = normal_like(LIKE, rows=(2,))
    first, second = flat_rows(trajectory(m_fac(0.1, 3, 0.1), gradients).updates)
    both = last_update(m_fac(0.1, 3, 0.1, momentum=0.9), gradients)
    np.testing.assert_allclose(flat(both), 0.9 * first + second, rtol=1e-4, atol=1e-7)


def test_decay_is_that_of_the_learning_rate():
    params = normal_like(LIKE)
    tx = m_fac(0.1, 3, weight_decay=0.5)
    updates = compiled_first_update(tx, jax.tree.map(np.zeros_like, params), params)
    np.testing.assert_allclose(flat(updates), -0.05 * flat(params), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [m_fac, sparse_m_fac])
def test_workers_gradients_are_averaged_first(optimizer):
    options = {"window": 3, "damping": 0.1, "density": 0.5} if optimizer is sparse_m_fac else {"window": 3}
    # Time first, and then workers.
    gradients = np.stack([np.arange(8.0, dtype=np.float32).reshape(2, 4) ** power - 3.0 for power in (1, 2)])
    tx, alone = optimizer(0.1, axis_name="workers", **options), optimizer(0.1, **options)
    updates = trajectory(tx, gradients, axis_name="workers").updates
    expected = trajectory(alone, np.mean(gradients, axis=1)).updates
    np.testing.assert_allclose(updates, np.stack([expected] * 2, axis=1), rtol=1e-5)


LARGE = {"hidden": (300, 200), "output": (200, 10), "bias": (200,)}
PARAMS = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in LARGE.items()}
SIZE = sum(math.prod(shape) for shape in LARGE.values())


@pytest.mark.parametrize(
    ("tx", "bytes_of_state"),
    [
        (m_fac(0.1, 16), 16 * 4 * SIZE),
        (m_fac(0.1, 16, momentum=0.9), 17 * 4 * SIZE),
        (sparse_m_fac(0.1, 16), 16 * (SIZE // 100) * (4 + 4) + 4 * SIZE),
        (sparse_m_fac(0.1, 16, window_dtype=jnp.bfloat16), 16 * (SIZE // 100) * (2 + 4) + 4 * SIZE),
    ],
)
def test_state_is_the_window_and_its_inner_products(tx, bytes_of_state):
    assert_state_is_window_and_inner_products(tx, bytes_of_state, PARAMS)


def sharded_params(axis_type):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    sharding = NamedSharding(mesh, PartitionSpec("data", "model"))
    return {"kernel": jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=sharding)}


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_workers_of_sharded_parameters_send_inner_products_only(axis_type):
    window = 6
    found = cost(m_fac(0.1, window), sharded_params(axis_type))
    whole = 4 * 64 * 32 * window
    assert found.state_bytes_per_device < 0.2 * whole
    assert set(found.sent) <= {"all-reduce"}
    assert sum(found.sent.values()) <= 2 * 2 * 4 * window  # once over each mesh axis


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: m_fac(0.1, 0), "window must be a positive integer, got 0"),
        (lambda: m_fac(0.1, 2.5), "window must be a positive integer, got 2.5"),
        (lambda: m_fac(0.1, damping=0.0), r"damping must be in \(0, inf\], got 0.0"),
        (lambda: m_fac(0.1, momentum=1.5), r"momentum must be in \[0, 1\], got 1.5"),
        (lambda: m_fac(0.1, weight_decay=-1.0), r"weight_decay must be in \[0, inf\], got -1.0"),
        (lambda: sparse_m_fac(0.1, density=0.0), r"density must be in \(0, 1\], got 0.0"),
    ],
)
def test_wrong_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.slow
def test_a_compressed_window_says_where_it_must_stand():
    assert_window_needs_compressed_gradients(scale_by_m_fac(2, compressor=global_top_k(0.5)), "scale_by_m_fac")
