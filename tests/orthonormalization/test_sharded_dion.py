import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import normal, with_singular_values
from golden_files import assert_replays, replays
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from optax.contrib import MuonDimensionNumbers
from trajectories import trajectory

import optkit
from optkit.core.cost import hlo
from optkit.core.linalg.orthonormal import cholesky_qr
from optkit.orthonormalization import scale_by_dion, scale_by_sharded_dion, sharded_dion, sharded_dion_specs
from optkit.orthonormalization._matrix_optimizer import matrix_optimizer
from optkit.testing import check_transformation
from optkit.testing.case import compiled

AXES = {"axis_name": "dp", "fsdp_axis": "fs", "tp_axis": "tp"}
OUTPUTS_FIRST = MuonDimensionNumbers(reduction_axis=-1, output_axis=-2)


def mesh_of(dp, fs, tp, axis_type=AxisType.Auto):
    return jax.make_mesh((dp, fs, tp), ("dp", "fs", "tp"), axis_types=(axis_type,) * 3)


def placed(tree, mesh, specs):
    return jax.tree.map(lambda spec, x: jax.device_put(x, NamedSharding(mesh, spec)), specs, tree)


def run_on(mesh, tx, specs, params, gradients, *, bases=None, check_vma=False, **numbers):
    """All parameters on the way and the last state, of workers' gradients, which have an axis for them behind time."""
    states = sharded_dion_specs(tx, params, specs, **AXES, **numbers)
    full = jax.tree.broadcast(specs, params, is_leaf=lambda node: isinstance(node, P))
    of_gradients = jax.tree.map(lambda spec: P(None, "dp", *spec), full)
    of_all = jax.tree.map(lambda spec: P(None, *spec), full)
    shard_map = functools.partial(jax.shard_map, mesh=mesh, check_vma=check_vma)

    def steps(params, state, gradients):
        def step(carry, gradient):
            params, state = carry
            updates, state = tx.update(jax.tree.map(lambda g: g[0], gradient), state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        (_, state), all_params = jax.lax.scan(step, (params, state), gradients)
        return all_params, state

    params, gradients = placed(params, mesh, full), placed(gradients, mesh, of_gradients)
    mapped_init = shard_map(tx.init, in_specs=(full,), out_specs=states)
    mapped_steps = shard_map(steps, in_specs=(full, states, of_gradients), out_specs=(of_all, states))

    def run(params, gradients):
        state = mapped_init(params)
        if bases is not None:
            drawn = optax.tree.get(state, "basis")
            recorded = {name: bases.get(name, basis) for name, basis in drawn.items()}
            assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(jnp.shape, recorded)
            state = optax.tree.set(state, basis=recorded)
        return mapped_steps(params, state, gradients)

    return compiled(run)(params, gradients)


@pytest.mark.slow
@replays("dion_sharded")
def test_golden_sharded_dion(recording):
    hyperparams = recording.hyperparams
    sizes = dict(re.findall(r"(dp|fs|tp) ?= ?(\d+)", recording.meta["source"]))
    mesh = mesh_of(*(int(sizes[name]) for name in ("dp", "fs", "tp")))
    words = "rows over (fs|tp), cols over (fs|tp), replicated over dp"
    specs = {leaf: P(*hyperparams.match(f"sharding.{leaf}", words).groups()) for leaf in recording.tree("params0")}
    options = hyperparams.take("rank_fraction", "eps", momentum="mu")
    transposed = hyperparams.group("transposed")
    tx = matrix_optimizer(
        "sharded_dion",
        **hyperparams.take("learning_rate", "weight_decay"),
        direction=lambda numbers: scale_by_sharded_dion(specs, weight_dimension_numbers=numbers, **options, **AXES),
        weight_dimension_numbers=OUTPUTS_FIRST,
        axis_name="dp",
    )
    params, gradients = (recording.tree(name) for name in ("params0", "grads"))
    bases = recording.tree("draws.Q0")
    all_params, _ = run_on(mesh, tx, specs, params, gradients, bases=bases, weight_dimension_numbers=OUTPUTS_FIRST)
    assert_replays(recording, all_params)
    # What the recording says of orientations.
    for leaf, basis in bases.items():
        assert basis.shape[0] == params[leaf].shape[0 if transposed[leaf] else 1]


# Kernels of Flax, inputs first, and whether columns are orthonormalized along inputs, as `transpose` says it.
SHAPES = {"up": (12, 16), "down": (16, 8), "small": (4, 4), "bias": (8,)}
SPECS = {"up": P("tp", "fs"), "down": P("fs", "tp"), "small": P("tp", "fs"), "bias": P("fs")}
TRANSPOSED = {"up": True, "down": False, "small": True, "bias": False}
OPTIONS = {"rank_fraction": 0.25, "rank_multiple_of": 4}


def problem(workers, steps=4, shapes=SHAPES):
    gradients = {name: normal(steps, workers, *shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    params = {name: normal(*shape, seed=9) for name, shape in shapes.items()}
    return jax.tree.map(np.array, (params, gradients))


def sharded(specs, **options):
    """The optimizer, with options that only its transformation has."""

    def direction(numbers):
        return scale_by_sharded_dion(specs, weight_dimension_numbers=numbers, **options, **AXES)

    return matrix_optimizer("sharded_dion", 0.1, direction, weight_decay=0.1, axis_name="dp")


def averaged(gradients):
    return jax.tree.map(lambda g: np.mean(g, axis=1), gradients)


@functools.cache  # so that runs on several meshes are compared with those of one program
def dion_on_one_device(transposed, **options):
    def direction(numbers):
        return scale_by_dion(transpose=dict(transposed), weight_dimension_numbers=numbers, **options)

    return matrix_optimizer("dion", 0.1, direction, weight_decay=0.1)


def on_one_device(params, gradients, transposed=TRANSPOSED, **options):
    tx = dion_on_one_device(tuple((name, transposed[name]) for name in params), **options)
    return trajectory(tx, averaged(gradients), params).params


def assert_close(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-10), actual, expected)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 4, 1), (1, 1, 4), (2, 2, 2), (1, 2, 4)])
def test_every_mesh_takes_the_steps_of_one_device(sizes):
    params, gradients = problem(sizes[0])
    all_params, _ = run_on(mesh_of(*sizes), sharded(SPECS, **OPTIONS), SPECS, params, gradients)
    assert_close(all_params, on_one_device(params, gradients, **OPTIONS))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("sizes", [(2, 1, 4), (1, 2, 2), (2, 2, 2)])
def test_ranks_are_rounded_up_to_the_devices_of_the_tensor_axis(sizes):
    specs = {"down": P("fs", "tp"), "small": P("tp", "fs")}  # ranks 2 and 1
    params, gradients = problem(sizes[0], shapes={name: SHAPES[name] for name in specs})
    tx = sharded_dion(0.1, specs, **AXES)
    all_params, state = run_on(mesh_of(*sizes), tx, specs, params, gradients, check_vma=True)
    bases = optax.tree.get(state, "basis")
    assert jax.tree.map(lambda basis: basis.shape[-1], bases) == {"down": max(sizes[2], 2), "small": sizes[2]}
    tx = scale_by_dion(rank_multiple_of=sizes[2], transpose={name: TRANSPOSED[name] for name in specs})
    tx = optax.chain(tx, optax.add_decayed_weights(0.01), optax.scale(-0.1))
    assert_close(all_params, trajectory(tx, averaged(gradients), params).params)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("specs", [
    {"up": P("tp"), "down": P(None, "tp")},
    {"up": P(None, "fs"), "down": P("fs")},
    {"bias": P("tp"), "up": P()},
])  # fmt: skip
def test_sides_may_be_whole(specs):
    params, gradients = problem(2, shapes={name: SHAPES[name] for name in specs})
    all_params, _ = run_on(mesh_of(2, 2, 2), sharded(specs, **OPTIONS), specs, params, gradients)
    transposed = {**TRANSPOSED, "up": specs.get("up") != P()}  # whole ones along their longer side
    assert_close(all_params, on_one_device(params, gradients, transposed, **OPTIONS))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("unit", [1.0, 1j])
def test_several_power_iterations_are_those_of_one_device(unit):
    params, gradients = problem(2, shapes={"up": SHAPES["up"]})
    params, gradients = jax.tree.map(lambda x: x + (unit - 1.0) * x[..., ::-1], (params, gradients))
    options = {**OPTIONS, "power_iterations": 3}
    tx = sharded(SPECS["up"], **options)
    all_params, _ = run_on(mesh_of(2, 2, 2), tx, SPECS["up"], params, gradients)
    assert_close(all_params, on_one_device(params, gradients, **options))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_jax_may_check_what_varies_between_devices(axis_type):
    params, gradients = problem(2)
    tx = sharded(SPECS, **OPTIONS)
    all_params, _ = run_on(mesh_of(2, 2, 2, axis_type), tx, SPECS, params, gradients, check_vma=True)
    assert_close(all_params, on_one_device(params, gradients, **OPTIONS))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("check_vma", [True, False])
def test_axes_over_separate_matrices_may_be_sharded(check_vma):
    specs = P("tp", "fs")
    params, gradients = {"up": np.asarray(normal(4, 12, 16))}, {"up": np.asarray(normal(4, 2, 4, 12, 16))}
    tx = scale_by_sharded_dion(specs, 0.25, **AXES)
    all_params, _ = run_on(mesh_of(2, 2, 2), tx, specs, params, gradients, check_vma=check_vma)
    whole = scale_by_dion(0.25, transpose=False)
    assert_close(all_params, trajectory(whole, averaged(gradients), params).params)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_zeros_on_some_devices_do_not_part_them():
    params, gradients = problem(2, steps=3, shapes={name: SHAPES[name] for name in ("up", "down")})
    # No gradient for one worker and for the shards of one FSDP device at first.
    gradients["up"][:2, 0], gradients["up"][:2, :, :, 8:] = 0.0, 0.0
    gradients["down"][:, 1], gradients["down"][0] = 0.0, 0.0
    specs = {name: SPECS[name] for name in params}
    all_params, _ = run_on(mesh_of(2, 2, 2), sharded(specs, **OPTIONS), specs, params, gradients)
    assert_close(all_params, on_one_device(params, gradients, **OPTIONS))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_momenta_may_be_synchronized():
    mesh, spec = mesh_of(4, 1, 2), P("tp", "fs")
    gradients = np.asarray(normal(4, 12, 16))
    tx = scale_by_sharded_dion(spec, rank=4, **AXES)
    states = sharded_dion_specs(tx, gradients[0], spec, **AXES)
    assert states.momentum == P(("dp", "tp"), "fs")

    def step(gradient, state):
        apart = tx.update(gradient[0], state)[1]
        together = optkit.sync_momentum(apart, "dp")
        return apart, together, tx.update(gradient[0], apart)[0], tx.update(gradient[0], together)[0]

    shard_map = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)
    state = compiled(shard_map(tx.init, in_specs=spec, out_specs=states))(gradients[0])
    mapped = shard_map(step, in_specs=(P("dp", *spec), states), out_specs=(states, states, spec, spec))
    apart, together, one, other = jax.jit(mapped)(gradients, state)
    assert_close(one, other)
    momenta, means = (np.asarray(x.momentum).reshape((4, 12, 16)) for x in (apart, together))
    assert np.max(np.abs(momenta[0] - momenta[1])) > 1
    assert_close(means, np.broadcast_to(np.mean(momenta, axis=0), means.shape))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_other_leaves_are_those_of_the_optimizer_that_is_given():
    params, gradients = problem(2, shapes={name: SHAPES[name] for name in ("up", "down", "bias")})
    specs = {"up": P("tp", "fs"), "down": P("fs", "tp"), "bias": P("tp")}
    labels = {"up": "matrix", "down": "other", "bias": "other"}
    tx = sharded_dion(0.1, specs, labels=labels, others=optax.lion(0.2), **AXES)
    all_params, _ = run_on(mesh_of(2, 2, 2), tx, specs, params, gradients)
    expected = trajectory(optax.lion(0.2), averaged(gradients), params).params
    del all_params["up"], expected["up"]
    assert_close(all_params, expected)


def test_a_state_says_how_it_is_sharded():
    params = {
        "kernel": jnp.zeros((8, 6)),
        "small": jnp.zeros((2, 2)),
        "layers": jnp.zeros((3, 8, 6)),
        "bias": jnp.zeros(6),
        "none": None,
    }
    specs = {"kernel": P("fs", "tp"), "small": P("fs"), "layers": P("stage", None, "tp"), "bias": P("tp"), "none": P()}
    labels = {"kernel": "matrix", "small": "matrix", "layers": "matrix", "bias": "other", "none": "other"}
    others = optax.adam(optax.constant_schedule(0.1))
    tx = optax.chain(optax.clip(1.0), sharded_dion(0.1, specs, labels=labels, others=others, **AXES))
    states = sharded_dion_specs(tx, params, specs, **AXES)
    of_dion = optax.tree.get_all_with_path(states, "basis")
    assert {"kernel": P("fs", "tp"), "layers": P("stage", None, "tp")}.items() <= of_dion[0][1].items()
    momentum = optax.tree.get(states, "momentum")
    assert momentum["kernel"] == P(("dp", "fs"), "tp")
    assert momentum["layers"] == P(("dp", "stage"), None, "tp")
    assert momentum["small"] == P("fs")  # its gradients are averaged
    assert optax.tree.get(states, "mu")["bias"] == P("tp")
    assert optax.tree.get(states, "count", filtering=lambda path, _: "Adam" in str(path)) == P()


# Programs


def lowered_update(shape, rank, sizes, **axes):
    """The program of one update of a sharded matrix with its inputs over `fs` and outputs over `tp`."""
    mesh, spec = mesh_of(*sizes), P("fs", "tp")
    axes = {**AXES, **axes}
    tx = scale_by_sharded_dion(spec, rank=rank, **axes)
    params = jax.ShapeDtypeStruct(shape, jnp.float32)
    states = sharded_dion_specs(tx, params, spec, **axes)
    shard_map = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)
    state = jax.eval_shape(shard_map(tx.init, in_specs=spec, out_specs=states), params)
    update = shard_map(tx.update, in_specs=(spec, states), out_specs=(spec, states))
    return jax.jit(update).lower(params, state)


def elements_of_arrays(program):
    """How many elements the arrays of a compiled program have."""
    return {math.prod(map(int, sizes.split(","))) for sizes in re.findall(r"f32\[([\d,]+)\]", program)}


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1024, 512), (512, 1024)])
@pytest.mark.parametrize("sizes", [(1, 4, 2), (1, 2, 4), (2, 2, 2)])
def test_no_device_holds_a_matrix_and_factors_are_what_is_sent(shape, sizes):
    rank, (_, fs, tp), (n, m) = 64, sizes, shape
    compressed = {} if sizes[0] > 1 else {"axis_name": None}
    lowered = lowered_update(shape, rank, sizes, **compressed)
    compiled = lowered.compile()
    assert max(elements_of_arrays(compiled.as_text())) == n * m // (fs * tp)
    sent = hlo.read(compiled, lowered).sent
    # The basis; nothing else is gathered.
    assert sent.pop("all-gather") == 4 * (tp - 1) * n // fs * rank // tp
    ring = {name: 2 * (size - 1) / size for name, size in (("p", sizes[0] * fs), ("r", sizes[0] * tp), ("tp", tp))}
    factors = 4 * rank * (ring["p"] * m / tp + ring["r"] * n / fs)
    products = 4 * 16 * (16 + 32 + 48 + 64) * ring["tp"]  # of columns: the lower quarters
    # The hlo reader counts the loop over passes once; norms of columns and of matrices are small.
    assert sent == {"all-reduce": pytest.approx(factors + products, rel=0.02)}


# Bases


HARD = {
    "normal": normal(48, 8),
    "condition 1e8": with_singular_values(np.logspace(0, -8, 8), 48, 8),
    "rank one": np.outer(normal(48), normal(8, seed=1)),
    "zero columns": normal(48, 8) * (np.arange(8) % 2),
    "zero": np.zeros((48, 8)),
    "large": 1e36 * normal(48, 8),
    "small": 1e-30 * normal(48, 8),
    "one shard only": normal(48, 8) * (np.arange(48) < 6)[:, None],
}


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 8])
def test_columns_over_devices_are_orthonormal_whatever_the_input(devices):
    matrices = np.stack(list(HARD.values())).astype(np.float32)
    shards = np.stack(np.split(matrices, devices, axis=1))
    basis = jax.jit(jax.vmap(lambda x: cholesky_qr(x, axis_name="tp"), axis_name="tp"))(shards)
    found = np.concatenate(basis, axis=1, dtype=np.float64)
    np.testing.assert_array_less(np.abs(found.mT @ found - np.eye(8)), 1e-5)
    for name, matrix, columns in zip(HARD, matrices, found, strict=True):
        scale = np.max(np.abs(matrix)) or 1.0
        residual = matrix / scale - columns @ (columns.T @ (matrix / scale))
        np.testing.assert_allclose(residual, 0.0, atol=1e-5, err_msg=name)


# Refusals


def refusal(spec, shape=(8, 6), message="", **options):
    options = {"rank": 2, **AXES, **options}
    mesh = mesh_of(2, 2, 2)
    init = jax.shard_map(
        lambda x: scale_by_sharded_dion(spec, **options).init(x).momentum, mesh=mesh, in_specs=spec, out_specs=spec
    )
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(init, jax.ShapeDtypeStruct(shape, jnp.float32))


def test_a_rank_that_does_not_divide_is_refused():
    refusal(
        P("fs", "tp"), rank=3, message="multiple of the 2 devices of tp_axis, got 3 for matrices of 6 rows and 8 col"
    )


def test_a_side_over_both_axes_is_refused():
    refusal(P(("fs", "tp"), None), message=r"whose axes \(0,\) are over \('fs', 'tp'\)")


def test_a_side_over_another_axis_is_refused():
    refusal(P("dp", "tp"), message=r"axes \(0,\) are over \('dp',\), with fsdp_axis='fs' and tp_axis='tp'")


def test_a_sharded_side_of_several_axes_is_refused():
    numbers = MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)
    refusal(P(None, None, "fs"), (3, 3, 4, 8), r"axes \(0, 1, 2\) are over", weight_dimension_numbers=numbers)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"rank_fraction": 0.0}, r"rank_fraction must be in \(0, 1\], got 0.0"),
    ({"momentum": 1.5}, r"momentum must be in \[0, 1\], got 1.5"),
    ({"weight_decay": -1.0}, r"weight_decay must be in \[0, inf\], got -1.0"),
    ({"fsdp_axis": "x", "tp_axis": "x"}, "fsdp_axis and tp_axis must be different mesh axes, got 'x' for both"),
])  # fmt: skip
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sharded_dion(0.1, P(), **arguments)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"rank": 0}, "rank must be a positive integer, got 0"),
    ({"rank_multiple_of": 0}, "rank_multiple_of must be a positive integer, got 0"),
    ({"power_iterations": 0}, "power_iterations must be a positive integer, got 0"),
    ({"eps": -1.0}, r"eps must be in \[0, inf\], got -1.0"),
])  # fmt: skip
def test_arguments_of_its_transformation_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        scale_by_sharded_dion(P(), **arguments)


def test_a_vector_is_refused():
    with pytest.raises(ValueError, match=r"scale_by_sharded_dion: the leaf '' of shape \(3,\) is not a matrix"):
        scale_by_sharded_dion(P()).init(jnp.ones(3))


# The contract


@pytest.mark.slow
def test_without_axes_it_keeps_the_contract():
    check_transformation(
        sharded_dion,
        promises=[
            "keeps_types",
            "takes_all_shapes",
            "stays_finite_in_float16",
            "works_partitioned",
            "works_with_map_params",
        ],
        static_args=("specs",),
        learning_rate=1e-2,
        specs=P(),
        weight_decay=0.0,
    )


@pytest.mark.slow
def test_over_workers_it_keeps_the_contract():
    check_transformation(
        sharded_dion,
        promises=["agrees_between_backends"],
        needs=("axis_name",),
        static_args=("axis_name", "specs"),
        learning_rate=1e-2,
        specs=P(),
        axis_name="workers",
    )
