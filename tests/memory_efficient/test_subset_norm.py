import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal, normal_like
from golden_files import assert_replays, replays
from optax.contrib import MuonDimensionNumbers
from trajectories import compiled_first_update, last_update, trajectory

from optkit import cost, state_shardings
from optkit.memory_efficient._adagrad_sn import adagrad_sn
from optkit.memory_efficient._adam_sn import adam_sn
from optkit.memory_efficient._matrices import leaf_views
from optkit.memory_efficient._rmsprop_sn import rmsprop_sn
from optkit.memory_efficient._subset_norm import scale_by_subset_norm
from optkit.memory_efficient._subset_sums import block_size, subset_sum_of_squares
from optkit.testing import golden


def first_update_and_moments(tx, gradients):
    """The first update of `scale_by_subset_norm`, and its second moments, in NumPy."""
    updates, state = jax.jit(lambda g: tx.update(g, tx.init(g)))(gradients)
    return jax.tree.map(np.asarray, (updates, state.nu))


def all_leaves(tree):
    return jax.tree.map(lambda _: True, tree)


def recorded_optimizer(recording):
    recorded = recording.hyperparams
    every_leaf = recorded.word("apply_to", {"all leaves, flattened C-order": True}, False)
    size = "subset_size" if every_leaf else "matrix_leaves.subset_size"
    recorded.word("second_moment_type", ("sn",), None)
    momentum_type = recorded.word("momentum_type", {"ema": "ema", "none": None}, "ema")
    b1, b2 = recorded["b1"], recorded.take("b2")
    shared = {
        **recorded.take("learning_rate", "eps", "weight_decay"),
        "subset_size": recorded.word(size, ("heuristics",)) if recorded.is_word(size) else recorded[size],
        "subset_leaves": all_leaves if every_leaf else None,
        "weight_dimension_numbers": MuonDimensionNumbers(reduction_axis=-1, output_axis=-2),
    }
    if recording.meta["method"] == "adam_sn":
        assert momentum_type == "ema"
        return adam_sn(b1=b1, **b2, bias_correction=recorded["bias_correction"], **shared)
    assert not recorded["bias_correction"]
    if recording.meta["method"] == "rmsprop_sn":
        assert momentum_type is None
        return rmsprop_sn(**b2, **shared)
    assert b2 == {"b2": 1}  # AdaGrad's sums
    return adagrad_sn(b1=None if momentum_type is None else b1, **shared)


@pytest.mark.slow
@replays("adam_sn", "rmsprop_sn", "adagrad_sn")
def test_golden_subset_norm(recording):
    assert_replays(recording, golden.replay_gradients(recorded_optimizer(recording), recording))


@pytest.mark.parametrize(
    ("shape", "subset_size", "number"),
    [
        ((6, 4), "heuristics", 6),
        ((4, 6), "heuristics", 6),
        ((5, 5), "heuristics", 5),
        ((3, 3, 2, 4), "heuristics", 36),  # nine matrices
        ((2, 2, 40), "heuristics", 80),
        ((7,), "heuristics", 7),
        ((), "heuristics", 1),
        ((6, 4), 5, 6),  # blocks of 4, the largest divisor of 24 up to 5
        ((6, 4), 100, 1),
        ((16, 12), -1, 16),  # blocks of 12, the largest divisor of 192 up to 13
        ((16, 12), -2, 32),
        ((2,), -5, 2),  # less than one entry a block: one
        ((17,), 16, 17),  # a prime
        ((), -1, 1),
        ((0, 3), 4, 0),
    ],
)
def test_partition_rules(shape, subset_size, number):
    x = np.asarray(normal(*shape))
    sums = jax.jit(lambda x: subset_sum_of_squares(x, subset_size, leaf_views(x)))(x)
    assert sums.size == number
    np.testing.assert_allclose(np.sum(sums), np.sum(x**2), rtol=1e-5)


@pytest.mark.parametrize(
    ("numbers", "axis"),
    [
        (None, 0),  # Flax keeps outputs, the rows, last
        (MuonDimensionNumbers(reduction_axis=-1, output_axis=-2), 1),
    ],
)
def test_a_square_matrix_has_a_subset_for_each_output(numbers, axis):
    kernel = normal(5, 5)
    _, nu = first_update_and_moments(scale_by_subset_norm(b2=None, weight_dimension_numbers=numbers), kernel)
    np.testing.assert_allclose(nu, np.sum(np.square(kernel), axis=axis, keepdims=True), rtol=1e-6)


def test_a_convolution_is_one_matrix_if_its_numbers_say_so():
    kernel = normal(3, 3, 2, 4)
    tx = scale_by_subset_norm(weight_dimension_numbers=MuonDimensionNumbers((0, 1, 2), 3))
    assert tx.init(kernel).nu.shape == (3, 3, 2, 1)
    assert scale_by_subset_norm().init(kernel).nu.shape == kernel.shape


def test_each_of_stacked_matrices_has_subsets_of_its_own():
    layers = normal(3, 6, 4)
    tx = scale_by_subset_norm(b2=None, weight_dimension_numbers=MuonDimensionNumbers(-2, -1))
    _, nu = first_update_and_moments(tx, layers)
    np.testing.assert_allclose(nu, np.sum(np.square(layers), axis=2, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_of_stacked_matrices_has_blocks_of_its_own(axis):
    layers = list(np.asarray(normal(3, 6, 4)))
    alone = scale_by_subset_norm(b2=None, subset_size=-1)
    inputs, outputs = (each for each in range(3) if each != axis)
    tx = scale_by_subset_norm(
        b2=None, subset_size=-1, weight_dimension_numbers={"kernel": MuonDimensionNumbers(inputs, outputs)}
    )
    stacked = {"kernel": np.stack(layers, axis)}
    updates, nu = first_update_and_moments(tx, stacked)
    assert nu["kernel"].shape == (3, 6)
    expected = compiled_first_update(alone, layers)
    np.testing.assert_allclose(updates["kernel"], np.stack(expected, axis), rtol=1e-6)


def test_blocks_are_of_the_whole_leaf_unless_it_has_numbers_of_its_own():
    kernel = normal(3, 2, 2, 2)
    numbers = MuonDimensionNumbers(reduction_axis=-1, output_axis=-2)
    for tx in (
        scale_by_subset_norm(None, subset_size=4, subset_leaves=all_leaves, weight_dimension_numbers=n)
        for n in (None, numbers)
    ):
        assert tx.init(kernel).nu.shape == (6,)


def test_blocks_are_neighbours_in_memory_order():
    x = jnp.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(subset_sum_of_squares(x, 6), [55.0, 451.0])


@pytest.mark.parametrize("size", [1, 12, 97, 192])
@pytest.mark.parametrize("subset_size", [1, 5, 64, -1, -2, -300])
def test_blocks_divide_the_leaf(size, subset_size):
    block = block_size(size, subset_size)
    wanted = subset_size if subset_size > 0 else max(1, int(math.sqrt(size) / -subset_size))
    assert size % block == 0
    assert block == max(k for k in range(1, size + 1) if size % k == 0 and k <= wanted)


@pytest.mark.parametrize("subset_size", ["heuristics", 3, -1])
def test_entries_of_a_subset_share_one_scale(subset_size):
    gradient = np.asarray(normal(6, 4))
    updates, nu = first_update_and_moments(scale_by_subset_norm(b2=None, subset_size=subset_size), gradient)
    ratios = np.unique(np.round(updates / gradient, 4))
    assert len(ratios) == nu.size


def test_one_step_of_adagrad_gives_every_subset_norm_one():
    gradient = normal(6, 4)
    updates, _ = first_update_and_moments(scale_by_subset_norm(b2=None, eps=0.0), gradient)
    np.testing.assert_allclose(np.linalg.norm(updates, axis=1), 1.0, rtol=1e-6)


@pytest.mark.slow
def test_leaves_without_subsets_get_adam():
    params = {"kernel": normal(4, 3), "bias": normal(3)}
    subset, adam = adam_sn(0.1, eps=0.0), optax.adam(0.1, eps=0.0)
    ours, theirs = (trajectory(tx, normal_like(params, 1, rows=(3,)), params).updates for tx in (subset, adam))
    np.testing.assert_allclose(ours["bias"], theirs["bias"], rtol=1e-5)
    for kernel, of_adam in zip(ours["kernel"], theirs["kernel"], strict=True):
        assert not np.allclose(kernel, of_adam, rtol=1e-2)


def test_a_mask_says_which_leaves_have_subsets():
    params = {"kernel": jnp.ones((4, 3)), "embedding": jnp.ones((5, 2)), "bias": jnp.ones(4)}
    tx = scale_by_subset_norm(subset_size=4, subset_leaves={"kernel": True, "embedding": False, "bias": True})
    shapes = jax.tree.map(jnp.shape, tx.init(params).nu, is_leaf=lambda x: isinstance(x, jax.Array))
    assert shapes == {"kernel": (3,), "embedding": (5, 2), "bias": (1,)}


def test_second_moments_are_those_of_the_gradient_and_not_of_the_numerator():
    gradient = normal(4, 3)
    tx = scale_by_subset_norm(b2=None, eps=0.0, momentum=optax.scale(7.0))
    updates, nu = first_update_and_moments(tx, gradient)
    np.testing.assert_allclose(nu[:, 0], np.sum(np.square(gradient), axis=1), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(updates, axis=1), 7.0, rtol=1e-6)


def test_adagrads_steps_shrink_and_rmsprops_do_not():
    lengths = {}
    for name, b2 in (("adagrad", None), ("rmsprop", 0.5)):
        lengths[name] = np.linalg.norm(last_update(scale_by_subset_norm(b2=b2), np.ones((16, 3, 2), np.float32))[0])
    np.testing.assert_allclose(lengths["adagrad"], 1 / 4, rtol=1e-5)
    np.testing.assert_allclose(lengths["rmsprop"], 1.0, rtol=1e-4)


@pytest.mark.slow
def test_decay_comes_after_the_step():
    params = np.float32([[2.0, 4.0]])
    step, both = (compiled_first_update(adam_sn(0.1, weight_decay=decay), params, params) for decay in (0.0, 0.5))
    np.testing.assert_allclose(params + both, (params + step) * 0.95, rtol=1e-6)


def test_masked_decay_leaves_others_alone():
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2))}
    tx = rmsprop_sn(0.1, weight_decay=0.5, mask={"a": True, "b": False})
    updates = compiled_first_update(tx, jax.tree.map(np.zeros_like, params), params)
    np.testing.assert_allclose(updates["a"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["b"], 0.0)


# A Llama of 60 M parameters without its embeddings, and a bias.
SHAPES = {"attention": (512, 512), "up": (512, 1376), "down": (1376, 512), "bias": (512,)}
PARAMS = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in SHAPES.items()}
SIZE = sum(math.prod(shape) for shape in SHAPES.values())
SUBSETS = 512 + 1376 + 1376 + 512
COUNTER = 4


@pytest.mark.parametrize(
    ("tx", "numbers", "counters"),
    [
        (adam_sn(0.1), SIZE + SUBSETS, 3),
        (rmsprop_sn(0.1), SUBSETS, 1),
        (adagrad_sn(0.1), SIZE + SUBSETS, 2),
        (adagrad_sn(0.1, b1=None), SUBSETS, 1),
        (rmsprop_sn(0.1, subset_size=256), (SIZE - 512) // 256 + 512, 1),
        (rmsprop_sn(0.1, subset_size=256, subset_leaves=all_leaves), SIZE // 256, 1),
    ],
)
def test_state_is_what_the_paper_says(tx, numbers, counters):
    assert cost(tx, PARAMS, state_only=True).state_bytes == 4 * numbers + COUNTER * counters


def test_state_stays_in_float32_for_sixteen_bit_parameters():
    params = jnp.ones((4, 2), jnp.bfloat16)
    assert scale_by_subset_norm().init(params).nu.dtype == jnp.float32


def test_second_moments_are_sharded_along_the_axis_that_they_stand_for():
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data", "model"))
    params = jax.ShapeDtypeStruct((16, 8), jnp.float32, sharding=sharding)
    nu = state_shardings(scale_by_subset_norm(), params).nu
    assert nu.spec[0] in ("data", ("data",))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: adam_sn(0.1, b1=1.0), r"b1 must be in \[0, 1\), got 1.0"),
        (lambda: adagrad_sn(0.1, b1=-0.1), r"b1 must be in \[0, 1\), got -0.1"),
        (lambda: rmsprop_sn(0.1, b2=1), r"b2 must be in \[0, 1\), got 1"),
        (lambda: adam_sn(0.1, eps=-1.0), "eps must be in"),
        (lambda: adam_sn(0.1, weight_decay=-1.0), "weight_decay must be in"),
        (lambda: adam_sn(0.1, subset_size=0), "subset_size must be 'heuristics' or an integer other than 0, got 0"),
        (lambda: adam_sn(0.1, subset_size="rows"), "got 'rows'"),
        (lambda: scale_by_subset_norm(None, bias_correction=True), "got b2=None"),
    ],
)
def test_wrong_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def compiled_step(tx, params):
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(step, donate_argnums=(0, 1)).lower(params, jax.eval_shape(tx.init, params), params).compile()


@pytest.mark.parametrize("shape", [(512, 128), (128, 512)])
def test_a_step_reads_and_writes_less_than_adamws(shape):
    params = jax.ShapeDtypeStruct(shape, jnp.float32)
    ours, theirs = (compiled_step(tx, params) for tx in (adam_sn(0.1, weight_decay=0.1), optax.adamw(0.1)))
    read_and_written, by_adamw = (x.cost_analysis()["bytes accessed"] / (4 * math.prod(shape)) for x in (ours, theirs))
    # Adam-SN: gradient; gradient, momentum, new momentum; new momentum, parameters, new parameters.
    assert read_and_written < 7.2
    assert by_adamw > 9.9
    assert ours.memory_analysis().temp_size_in_bytes < 0.1 * 4 * math.prod(shape)
