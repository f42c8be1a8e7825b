import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from optax.contrib import MuonDimensionNumbers
from promises import assert_names_leaf_without_numbers, assert_refuses_vectors, assert_same_parameters
from trajectories import compiled_first_update, last, trajectory

import optkit
from optkit.core.cost import hlo
from optkit.core.linalg.orthonormal import cholesky_qr, householder_qr, randomized_cholesky_qr
from optkit.orthonormalization import dion, scale_by_dion, sync_momentum
from optkit.testing import check_transformation

# One transformation for several tests, so that its runs along gradients of equal shapes are one program.
DION = dion(0.1)


def _is_dict(node):
    return isinstance(node, dict)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_at_full_rank_the_momentum_is_heavy_ball():
    gradients = normal(10, 7, 5)
    state, trace = (
        last(trajectory(tx, gradients).states) for tx in (scale_by_dion(1.0, momentum=0.9), optax.trace(0.9))
    )
    np.testing.assert_allclose(state.momentum, 0.9 * trace.trace, atol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_updates_have_the_rank_and_columns_of_norm_one(rank):
    update = np.asarray(compiled_first_update(scale_by_dion(rank=rank), normal(8, 5))) / (5 / 8) ** 0.5
    assert np.linalg.matrix_rank(update) == rank
    np.testing.assert_allclose(np.linalg.norm(update) ** 2, rank, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_at_full_rank_power_iterations_give_the_polar_factor():
    left, _, right = np.linalg.svd(normal(12, 6), full_matrices=False)
    matrix = (left * 10.0 ** -np.arange(6)) @ right
    update = compiled_first_update(scale_by_dion(1.0, power_iterations=5), matrix) / (6 / 12) ** 0.5
    np.testing.assert_allclose(update, left @ right, atol=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_what_the_update_did_not_take_stays_whole():
    left, _, right = np.linalg.svd(normal(8, 6), full_matrices=False)
    values = np.array([9.0, 7.0, 1e-3, 1e-3, 1e-3, 1e-3])
    tx = scale_by_dion(rank=2, momentum=0.5, power_iterations=10)
    momenta = trajectory(tx, ((left * values) @ right)[None]).states.momentum
    values[:2] *= 0.5
    np.testing.assert_allclose(momenta[0], (left * values) @ right, atol=1e-9)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", [(8, 5), (5, 8)])
@pytest.mark.parametrize("rank_fraction", [0.4, 1.0])
def test_parameters_do_not_depend_on_the_orthonormal_basis(shape, rank_fraction):
    gradients = normal(10, *shape)
    runs = [
        trajectory(optax.chain(scale_by_dion(rank_fraction, orthonormalize=basis), optax.scale(-0.1)), gradients).params
        for basis in (householder_qr, cholesky_qr, randomized_cholesky_qr)
    ]
    for other in runs[1:]:
        np.testing.assert_allclose(other, runs[0], atol=1e-10)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_matrix_and_its_transpose_take_the_same_steps():
    gradients = normal(10, 8, 5)
    outputs_first = MuonDimensionNumbers(reduction_axis=-1, output_axis=-2)
    one = trajectory(dion(0.1, 0.4), gradients).params
    other = trajectory(dion(0.1, 0.4, weight_dimension_numbers=outputs_first), np.asarray(gradients).mT).params
    np.testing.assert_allclose(np.asarray(other).mT, one, atol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_transpose_is_given_for_each_leaf():
    gradients = {"a": normal(10, 8, 5), "b": normal(10, 8, 5)}
    params, _, states = trajectory(scale_by_dion(0.4, transpose={"a": False, "b": True}), gradients)
    # Time first; columns are inputs, the first axis of Flax's kernels.
    assert states.basis["a"].shape == (10, 8, 2)
    assert states.basis["b"].shape == (10, 5, 2)
    assert not np.allclose(params["a"], params["b"])


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_leading_axes_hold_separate_matrices():
    gradients = np.asarray(normal(3, 8, 5))
    tx = scale_by_dion(0.5)
    update = jax.jit(tx.update)
    state = jax.tree.map(np.asarray, jax.jit(tx.init)(gradients))
    together = jax.tree.map(np.asarray, update(gradients, state))
    for index in range(3):
        of_one = jax.tree.map(lambda x, index=index: x[index], together)
        alone = update(gradients[index], jax.tree.map(lambda x, index=index: x[index], state))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), of_one, alone)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_leaves_of_equal_shape_take_the_steps_that_they_take_alone():
    gradients = {"a": normal(8, 5), "b": normal(8, 5, seed=1), "c": normal(5, 8, seed=2)}
    tx = scale_by_dion(0.5)
    update, state = jax.jit(tx.update), jax.jit(tx.init)(gradients)
    updates, _ = update(gradients, state)
    for name, gradient in gradients.items():
        alone, _ = update(gradient, jax.tree.map(lambda node, name=name: node[name], state, is_leaf=_is_dict))
        np.testing.assert_allclose(updates[name], alone, atol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_convolution_is_the_matrix_of_its_flattened_inputs():
    gradients = np.asarray(normal(6, 3, 2, 4, 5))
    numbers = MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)
    one, _, states = trajectory(dion(0.1, weight_dimension_numbers=numbers), gradients)
    other = trajectory(DION, gradients.reshape(6, 24, 5)).params
    np.testing.assert_allclose(np.asarray(one).reshape(other.shape), other, atol=1e-12)
    assert optax.tree.get(states, "momentum").shape == (6, 3, 2, 4, 5)


@pytest.mark.slow
def test_zero_momentum_gives_no_update_and_normalizes_the_basis():
    tx = scale_by_dion(0.5)
    zeros = {"zero": jnp.zeros((6, 4)), "other": normal(6, 4)}
    start = jax.jit(tx.init)(zeros)
    updates, state = jax.jit(tx.update)(zeros, start)
    np.testing.assert_array_equal(updates["zero"], 0.0)
    norm = np.linalg.norm(start.basis["zero"], axis=0)
    np.testing.assert_allclose(state.basis["zero"], start.basis["zero"] / norm, rtol=1e-6)
    assert np.linalg.norm(updates["other"]) > 1


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_gradients_of_low_rank_are_no_trouble():
    gradients = np.einsum("ti,tj->tij", normal(30, 12), normal(30, 8, seed=1))
    gradients[:10, 3:] = 0.0
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(trajectory(dion(0.1, 0.5), gradients)))


@pytest.mark.parametrize(("shape", "arguments", "rank"), [
    ((8, 5), {"rank_fraction": 0.25}, 2),
    ((8, 5), {"rank_fraction": 0.01}, 1),
    ((64, 48), {"rank_fraction": 0.26, "rank_multiple_of": 8}, 16),
    ((8, 5), {"rank_fraction": 0.5, "rank_multiple_of": 8}, 5),
    ((8, 5), {"rank": 3}, 3),
    ((8, 5), {"rank": 30}, 5),
    ((1, 5), {}, 1),
])  # fmt: skip
def test_ranks(shape, arguments, rank):
    assert jax.eval_shape(scale_by_dion(**arguments).init, jnp.zeros(shape)).basis.shape[-1] == rank


def test_state_is_the_matrix_and_its_shorter_side_times_the_rank():
    params = {"kernel": jnp.zeros((64, 48)), "bias": jnp.zeros(48)}
    state = jax.eval_shape(dion(0.1, rank=8).init, params)
    numbers = sum(x.size for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating))
    assert numbers == 64 * 48 + 48 * 8 + 2 * 48


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_other_leaves_are_of_as_many_kinds_as_others_has():
    # The authors' advice: Lion, in the last layer at the rate over the root of its inputs, here 25.
    gradients = {
        "hidden": normal(9, 8, 25),
        "bias": normal(9, 25, seed=1),
        "scale": normal(9, 25, seed=2),
        "head": normal(9, 25, 6, seed=3),
    }
    kinds = {
        "lion": optax.lion(0.1, b1=0.9, b2=0.95, weight_decay=0.3),
        "head": optax.lion(0.1 / 5, b1=0.9, b2=0.95, weight_decay=0.0),
        "adamw": optax.adamw(0.2, b1=0.9, b2=0.95, eps=1e-3, weight_decay=0.5),
    }
    kind_of = {"hidden": "lion", "bias": "lion", "scale": "adamw", "head": "head"}
    labels = {"hidden": "matrix", "bias": "other", "scale": "other", "head": "other"}
    tx = dion(0.1, labels=labels, others=optax.partition({**kinds}, kind_of))
    for name in ("bias", "scale", "head"):
        assert_same_parameters(tx, kinds[kind_of[name]], gradients, leaves=(name,), atol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_by_default_leaves_that_are_no_matrices_are_adamws_at_the_same_rate():
    gradients = {"kernel": normal(8, 6, 4), "bias": normal(8, 4)}
    assert_same_parameters(dion(0.1), optax.adam(0.1, 0.9, 0.95, 1e-8), gradients, leaves=("bias",), atol=1e-12)


@pytest.mark.slow
def test_masked_leaves_do_not_decay():
    params = {"a": normal(6, 4), "b": normal(6, 4)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    tx = dion(0.1, weight_decay=0.5, mask={"a": True, "b": False})
    updates = compiled_first_update(tx, zeros, params)
    np.testing.assert_allclose(updates["a"], -0.05 * params["a"], rtol=1e-6)
    np.testing.assert_array_equal(updates["b"], 0.0)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"rank_fraction": 0.0}, r"rank_fraction must be in \(0, 1\], got 0.0"),
    ({"momentum": 1.5}, r"momentum must be in \[0, 1\], got 1.5"),
    ({"rank": 0}, "rank must be a positive integer, got 0"),
    ({"weight_decay": -1.0}, r"weight_decay must be in \[0, inf\], got -1.0"),
])  # fmt: skip
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        dion(0.1, **arguments)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"rank_multiple_of": 0}, "rank_multiple_of must be a positive integer, got 0"),
    ({"power_iterations": 0}, "power_iterations must be a positive integer, got 0"),
    ({"eps": -1.0}, r"eps must be in \[0, inf\], got -1.0"),
])  # fmt: skip
def test_arguments_of_its_transformation_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        scale_by_dion(**arguments)


def test_a_vector_is_refused():
    assert_refuses_vectors(scale_by_dion(), "scale_by_dion")


def test_a_leaf_without_numbers_is_named():
    assert_names_leaf_without_numbers(scale_by_dion)


# Over workers


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("workers", [2, 3])
def test_factors_of_workers_give_the_steps_of_averaged_gradients(workers):
    gradients = {
        "kernel": np.asarray(normal(20, workers, 16, 12)),
        "square": np.asarray(normal(20, workers, 4, 4)),
        "bias": np.asarray(normal(20, workers, 5)),
    }
    alone = trajectory(DION, jax.tree.map(lambda g: np.mean(g, axis=1), gradients))
    together = trajectory(dion(0.1, axis_name="workers"), gradients, axis_name="workers")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, np.broadcast_to(np.expand_dims(b, 1), a.shape), atol=1e-12),
        together.params,
        alone.params,
    )
    expected, momenta = (np.asarray(optax.tree.get(run.states, "momentum")["kernel"])[-1] for run in (alone, together))
    np.testing.assert_allclose(np.mean(momenta, axis=0), expected, atol=1e-12)
    drift = np.sum(gradients["kernel"] - np.mean(gradients["kernel"], axis=1, keepdims=True), axis=0)
    np.testing.assert_allclose(momenta - np.mean(momenta, axis=0), drift, atol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_worker_without_gradients_takes_the_same_steps():
    gradients = np.array(normal(6, 2, 16, 12))
    gradients[:, 0] = 0.0
    params = np.asarray(trajectory(dion(0.1, axis_name="workers"), gradients, axis_name="workers").params)
    np.testing.assert_array_equal(params[:, 0], params[:, 1])
    assert np.linalg.norm(params[0, 0]) > 0.1


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_momenta_may_be_synchronized_at_any_time():
    tx = dion(0.1, axis_name="workers")
    gradients = normal(8, 3, 16, 12)
    over_workers = functools.partial(jax.vmap, axis_name="workers")

    @jax.jit
    def go_on(params, state):
        def step(carry, gradient):
            params, state = carry
            updates, state = over_workers(tx.update)(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), gradients)[0]

    start = jnp.zeros((3, 16, 12))
    params, state = go_on(start, jax.jit(jax.vmap(tx.init))(start))
    synced = jax.jit(over_workers(lambda state: sync_momentum(state, "workers")))(state)
    apart, together = (np.asarray(optax.tree.get(each, "momentum")) for each in (state, synced))
    np.testing.assert_allclose(together, np.broadcast_to(np.mean(apart, axis=0), apart.shape), atol=1e-12)
    assert np.max(np.abs(apart[0] - apart[1])) > 1
    np.testing.assert_allclose(go_on(params, synced)[0], go_on(params, state)[0], atol=1e-12)


@pytest.mark.slow
def test_workers_send_factors_where_these_are_smaller():
    params = {"kernel": jnp.zeros((64, 48)), "small": jnp.zeros((4, 4)), "bias": jnp.zeros(48)}
    step = optkit.on_workers(lambda g, state: tx.update(g, state, g), axis_name="workers", backend="shard_map")
    tx = dion(0.1, rank=8, axis_name="workers")
    gradients = jax.tree.map(lambda x: jnp.zeros((8, *x.shape)), params)
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct((8, *x.shape), x.dtype), jax.eval_shape(tx.init, params))
    lowered = jax.jit(step).lower(gradients, state)
    sent = hlo.read(lowered.compile(), lowered).sent
    numbers = (64 + 48) * 8 + 4 * 4 + 48
    assert sent == {"all-reduce": pytest.approx(4 * numbers * 2 * 7 / 8)}


@pytest.mark.slow
def test_over_workers_it_keeps_the_contract():
    check_transformation(
        dion,
        promises=["keeps_types", "agrees_between_backends", "accepts_unknown_extra_args"],
        needs=("axis_name",),
        static_args=("axis_name",),
        learning_rate=1e-2,
        axis_name="workers",
    )


# Sharded


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("spec", [("data", "model"), (("data", "model"), None)])
@pytest.mark.parametrize("shape", [(32, 16), (16, 32)])
def test_sharded_matrices_take_the_same_steps(axis_type, spec, shape):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    of_all_steps = NamedSharding(mesh, PartitionSpec(None, *spec))
    gradients, start = np.asarray(normal(3, *shape)), np.asarray(normal(*shape, seed=1))
    expected = trajectory(DION, gradients, start).params
    with jax.set_mesh(mesh):
        params = trajectory(DION, jax.device_put(gradients, of_all_steps), jax.device_put(start, sharding)).params
    assert params.sharding.is_equivalent_to(of_all_steps, 3)
    np.testing.assert_allclose(params, expected, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize(("orthonormalize", "shape", "passes", "most"), [
    (cholesky_qr, (1024, 512), 2, 0.2e6),
    (cholesky_qr, (512, 1024), 2, 0.26e6),
    (randomized_cholesky_qr, (1024, 512), 1, 0.25e6),
    (randomized_cholesky_qr, (512, 1024), 1, 0.3e6),
])  # fmt: skip
def test_a_sharded_matrix_is_not_gathered(axis_type, orthonormalize, shape, passes, most):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    sharding = NamedSharding(mesh, PartitionSpec("data", "model"))
    tx = optax.chain(scale_by_dion(rank=64, orthonormalize=orthonormalize), optax.scale(-0.1))
    with jax.set_mesh(mesh):
        params = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
        shardings = optkit.state_shardings(tx, params)
        state = jax.tree.map(lambda x, s: x.update(sharding=s), jax.eval_shape(tx.init, params), shardings)
        lowered = jax.jit(tx.update, out_shardings=(sharding, shardings)).lower(params, state, params)
        sent = hlo.read(lowered.compile(), lowered).sent
    # Factors of the matrix and products of their columns; the matrix itself has 2 MB.
    assert set(sent) == {"all-reduce"}
    # The loop over passes counts once: each sends the lower quarters of 64 x 64 products over the longer side's axis.
    devices = mesh.shape["data" if shape[0] > shape[1] else "model"]
    a_pass = 4 * 16 * (16 + 32 + 48 + 64) * 2 * (devices - 1) / devices
    assert sent["all-reduce"] + (passes - 1) * a_pass <= most
