import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from golden_files import assert_replays, replays
from trajectories import compiled_first_update, trajectory

from optkit import cost
from optkit.core.quantization import dequantize
from optkit.memory_efficient._micro_adam import micro_adam, scale_by_micro_adam
from optkit.testing import golden


def recorded_optimizer(recording):
    recorded = recording.hyperparams
    add_residual = recorded["alpha"] == -2
    return micro_adam(
        recorded["learning_rate"],
        recorded["window"],
        recorded["density"],
        recorded["b1"],
        recorded["b2"],
        recorded["eps"],
        recorded["weight_decay"],
        alpha=0.0 if add_residual else recorded["alpha"],
        add_residual=add_residual,
        block_size=recorded["topk_block_size"],
        bits=recorded["quant_bits"],
        quantization_block_size=recorded["quant_block_size"],
        state_dtype=recording.meta["dtype"],
    )


@pytest.mark.slow
@replays("microadam")
def test_golden_micro_adam(recording):
    assert_replays(recording, golden.replay_gradients(recorded_optimizer(recording), recording))


SIZES = {"one block": (40, 50), "several": (300, 150), "odd": (9,), "few": (3,), "scalar": ()}
BLOCK, QUANTIZATION_BLOCK, COUNTER = 16_384, 1_000, 4


@pytest.mark.parametrize(("density", "window", "bits"), [(0.01, 10, 4), (0.1, 3, 8), (0.05, 5, 2)])
def test_state_is_what_the_paper_says(density, window, bits):
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in SIZES.items()}
    tx = scale_by_micro_adam(window, density, bits=bits, quantization_block_size=QUANTIZATION_BLOCK)
    expected = COUNTER
    for size in map(math.prod, SIZES.values()):
        blocks = [BLOCK] * (size // BLOCK) + [size % BLOCK]
        in_window = sum(math.ceil(density * block) for block in blocks)
        expected += math.ceil(size * bits / 8) + 4 * window * in_window + 4 * math.ceil(size / QUANTIZATION_BLOCK)
    assert cost(tx, params, state_only=True).state_bytes == expected


def test_state_is_nine_tenths_of_a_byte_a_parameter():
    size = 100 * 2**14
    state_bytes = cost(micro_adam(1e-3), {"w": jnp.zeros([size])}, state_only=True).state_bytes
    assert state_bytes - COUNTER == size / 2 + 100 * 4 * 10 * 164 + 4 * math.ceil(size / 100_000)
    assert state_bytes <= 0.901 * size


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_with_everything_in_the_window_it_is_adam_until_the_window_ends():
    window = 6
    grads = normal(9, 20)
    ours = trajectory(scale_by_micro_adam(window, 1.0, bits="whole", state_dtype=jnp.float64), grads).updates
    adam = trajectory(optax.scale_by_adam(), grads).updates
    np.testing.assert_allclose(ours[:window], adam[:window], rtol=1e-10)
    assert not np.allclose(ours[window], adam[window], rtol=1e-2)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_with_everything_in_the_window_moments_are_those_of_the_last_gradients():
    window, b1, b2, t = 3, 0.9, 0.99, 8
    grads = normal(t, 20)
    ours = trajectory(scale_by_micro_adam(window, 1.0, b1, b2, bits="whole", state_dtype=jnp.float64), grads).updates
    last = grads[-1 : -1 - window : -1]
    mu, nu = (np.tensordot(b ** np.arange(window), last**p, 1) for b, p in ((b1, 1), (b2, 2)))
    mu, nu = mu * (1 - b1) / (1 - b1**t), nu * (1 - b2) / (1 - b2**t)
    np.testing.assert_allclose(ours[-1], mu / (np.sqrt(nu) + 1e-8), rtol=1e-10)


@pytest.mark.slow
def test_what_does_not_change_moves_up_to_six_and_a_half_times_as_far_as_with_adam():
    tx = scale_by_micro_adam(density=1.0, state_dtype=jnp.float32)
    updates = np.asarray(trajectory(tx, jnp.ones((20_000, 1))).updates[:, 0])
    np.testing.assert_allclose(updates[:10], 1.0, rtol=1e-3)
    assert np.all(np.diff(updates[20:]) > -1e-4)
    np.testing.assert_allclose(updates[-1], (1 - 0.9**10) / math.sqrt(1 - 0.999**10), rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, "whole"])
@pytest.mark.usefixtures("x64")
def test_errors_keep_what_is_not_sent_as_well_as_their_bits_can(bits):
    size, block = 50, 16
    grads = np.asarray(normal(12, size))
    tx = scale_by_micro_adam(4, 0.1, bits=bits, quantization_block_size=block, state_dtype=jnp.float64)
    states = jax.tree.map(np.asarray, trajectory(tx, grads).states)
    error = np.zeros(size)
    stored = jax.jit(lambda error: dequantize(error, size, bits, block, jnp.float64))
    for t, g in enumerate(grads):
        state = jax.tree.map(lambda x, t=t: x[t], states)
        left = np.array(g + error)
        left[state.places[t % 4]] -= state.values[t % 4]
        assert np.count_nonzero(np.abs(left) > 1e-14) == size - 5
        if bits == "whole":
            error = np.asarray(state.error.errors)
            np.testing.assert_allclose(error, left, atol=1e-14)
        else:
            error = np.asarray(stored(state.error))
            steps = np.repeat((state.error.high - state.error.low) / 15, block)[:size]
            assert np.all(np.abs(error - left) <= steps / 2 + 1e-14)


@pytest.mark.slow
def test_what_the_dtype_of_the_window_rounds_off_stays_in_the_error():
    grads = np.asarray(normal(1, 20))
    states = jax.tree.map(np.asarray, trajectory(scale_by_micro_adam(4, 1.0, bits="whole"), grads).states)
    values = np.zeros(20, np.float32)
    values[states.places[0, 0]] = states.values[0, 0]
    assert states.values.dtype == jnp.bfloat16
    np.testing.assert_array_equal(values + states.error.errors[0], grads[0])


@pytest.mark.slow
def test_whole_errors_are_sharded_like_their_parameters():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data", None))
    with jax.set_mesh(mesh):
        params = jax.device_put(jnp.arange(32.0).reshape(16, 2), sharding)
        tx = scale_by_micro_adam(bits="whole")
        state = tx.init(params)
        assert state.error.errors.sharding == sharding
        updates, state = jax.jit(tx.update)(params, state)
    assert state.error.errors.sharding == updates.sharding == sharding
    np.testing.assert_array_equal(np.count_nonzero(updates), 1)


@pytest.mark.slow
def test_small_gradients_are_sent_in_the_end():
    grads = np.tile(np.float32([1.0, 0.3, 0.0, 0.0]), (30, 1))
    with_feedback = np.asarray(trajectory(scale_by_micro_adam(4, 0.25), grads).updates)
    assert np.any(with_feedback[:, 1] != 0)
    assert np.all(with_feedback[0, 1:] == 0)


@pytest.mark.slow
def test_only_what_is_in_the_window_moves():
    _, updates, states = trajectory(scale_by_micro_adam(3, 0.05, block_size=40), normal(10, 100))
    moved = np.count_nonzero(np.asarray(updates), axis=1)
    assert moved[0] == 5  # two from each of two blocks, one from the twenty that are left
    assert np.all(moved <= 15)
    assert states.places.shape == (10, 3, 5)


@pytest.mark.slow
def test_the_window_forgets():
    grads = np.eye(8, 1, dtype=np.float32) * np.ones(10, np.float32)
    updates = np.asarray(trajectory(scale_by_micro_adam(4, 1.0, bits="whole"), grads).updates)
    assert np.all(updates[:4] != 0)
    np.testing.assert_array_equal(updates[4:], 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 5, 99])
def test_less_parameters_than_one_over_the_density_put_one_into_the_window(size):
    updates = trajectory(scale_by_micro_adam(), normal(1, size)).updates
    assert np.count_nonzero(updates) == 1


@pytest.mark.parametrize(("block_size", "dtype"), [(2**15, jnp.int16), (2**15 + 1, jnp.int32)])
def test_places_have_sixteen_bits_where_they_suffice(block_size, dtype):
    params = jax.ShapeDtypeStruct((2**16,), jnp.float32)
    assert jax.eval_shape(scale_by_micro_adam(block_size=block_size).init, params).places.dtype == dtype


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_alpha_moves_part_of_the_error_into_the_step():
    grads = normal(1, 50)
    options = {"density": 0.1, "state_dtype": jnp.float64}
    _, plain, plain_state = jax.tree.map(np.asarray, trajectory(scale_by_micro_adam(**options), grads))
    _, dense, dense_state = jax.tree.map(np.asarray, trajectory(scale_by_micro_adam(**options, alpha=0.2), grads))
    error, rest = (
        np.asarray(dequantize(jax.tree.map(lambda x: x[0], state.error), 50, 4, 50, jnp.float64))
        for state in (plain_state, dense_state)
    )
    np.testing.assert_allclose(dense[0], plain[0] + 0.2 * error, rtol=1e-10)
    np.testing.assert_allclose(rest, 0.8 * error, atol=1e-12)
    assert np.all(dense != 0)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_residual_is_added_without_the_learning_rate():
    grads = np.asarray(normal(6, 50))
    options = {"density": 0.1, "weight_decay": 0.1, "state_dtype": jnp.float64}
    params = normal(50)
    plain = np.asarray(trajectory(micro_adam(0.1, **options), grads, params).updates)
    with_residual = trajectory(micro_adam(0.1, **options, add_residual=True), grads, params)
    _, whole, states = jax.tree.map(np.asarray, with_residual)
    parts = states.micro_adam
    error = np.asarray(dequantize(jax.tree.map(lambda x: x[0], parts.error), 50, 4, 50, jnp.float64))
    left = grads[0].copy()
    left[parts.places[0, 0]] = 0.0
    np.testing.assert_allclose(whole[0], plain[0] - (left - error), rtol=1e-10)
    assert np.any(left != error)


@pytest.mark.slow
def test_decay_comes_before_the_step():
    params = np.float32([2.0, 4.0])
    step, both = (compiled_first_update(micro_adam(0.1, weight_decay=decay), params, params) for decay in (0.0, 0.5))
    np.testing.assert_allclose(params + both, params * 0.95 + step, rtol=1e-6)


@pytest.mark.slow
def test_a_nan_spoils_the_state_unless_it_is_kept_out():
    grads = np.array(normal(3, 20))
    grads[1, 4] = np.nan
    tx = micro_adam(0.1, density=0.2)
    spoilt, expected = (np.asarray(trajectory(tx, g).updates) for g in (grads, grads[[0, 2]]))
    kept = np.asarray(trajectory(optax.apply_if_finite(tx, 1), grads).updates)
    assert np.any(np.isnan(spoilt[2]))
    np.testing.assert_allclose(kept[2], expected[1], rtol=1e-6)


def test_any_dtype_of_gradients_leaves_the_state_as_it_is():
    tx = scale_by_micro_adam()
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
        g = jax.ShapeDtypeStruct((30,), dtype)
        state = jax.eval_shape(tx.init, g)
        updates, new_state = jax.eval_shape(tx.update, g, state)
        assert (updates.dtype, new_state) == (dtype, state)
        assert (state.values.dtype, state.error.low.dtype) == (jnp.bfloat16, jnp.bfloat16)


def test_leaves_of_one_shape_are_compiled_once():
    params = {name: jnp.zeros((8, 4)) for name in "abcd"} | {"bias": jnp.zeros(4)}
    tx = scale_by_micro_adam()
    program = str(jax.make_jaxpr(tx.update)(params, tx.init(params)))
    assert program.count("top_k[") == len({(8, 4), (4,)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 0}, "window must be a positive integer, got 0"),
        ({"density": 0.0}, r"density must be in \(0, 1\], got 0.0"),
        ({"density": 1.5}, r"density must be in \(0, 1\], got 1.5"),
        ({"b1": 1.0}, r"b1 must be in \[0, 1\), got 1.0"),
        ({"b2": -0.1}, r"b2 must be in \[0, 1\), got -0.1"),
        ({"eps": 0.0}, r"eps must be in \(0, inf\], got 0.0"),
        ({"weight_decay": -1.0}, "weight_decay must be in"),
        ({"alpha": -2}, r"alpha must be in \[0, 1\), got -2"),
        ({"block_size": 0.5}, "block_size must be a positive integer, got 0.5"),
        ({"bits": 3}, "bits must be 1, 2, 4, 8 or 'whole', got 3"),
        ({"quantization_block_size": 0}, "quantization_block_size must be a positive integer, got 0"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        micro_adam(0.1, **arguments)
