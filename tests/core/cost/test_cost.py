"""`cost` promises what a step costs, exactly where it can be known, without running or allocating anything."""

import dataclasses
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from optkit.core.cost.cost import Cost, cost

P = PartitionSpec
WORKERS = {"axis_name": "workers", "axis_size": 8}
RING = [(i, (i + 1) % 8) for i in range(8)]


def struct(shape, dtype=jnp.float32, mesh=None, *spec):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=mesh and NamedSharding(mesh, P(*spec)))


def mapping(function):
    """A transformation that maps each gradient."""
    return optax.stateless(lambda updates, _: jax.tree.map(function, updates))


def product(updates, params):
    """Gives the parameter "out" the matrix product of the two others."""
    del params
    return {**updates, "out": updates["left"] @ updates["right"]}


@pytest.fixture(params=[AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def mesh(request):
    return jax.make_mesh((4, 2), ("x", "y"), axis_types=(request.param,) * 2)


PARAMS = {"w": struct((64, 32)), "b": struct((32,))}
SIZE = 64 * 32 + 32


# Memory.


def test_adamw_keeps_8_bytes_per_float32_parameter():
    found = cost(optax.adamw(1e-3), PARAMS)
    assert (found.parameters, found.state_bytes) == (SIZE, 8 * SIZE + 4)  # and a counter
    assert found.state_bytes_per_parameter == (8 * SIZE + 4) / SIZE


def test_state_per_device_follows_the_sharding(mesh):
    params = {"w": struct((64, 32), jnp.float32, mesh, "x", "y"), "b": struct((32,), jnp.float32, mesh)}
    found = cost(optax.adamw(1e-3), params)
    assert found.state_bytes == 8 * SIZE + 4
    assert found.state_bytes_per_device == 8 * (64 * 32 // 8 + 32) + 4


def test_temporary_memory_grows_with_what_a_step_keeps_aside():
    def keeps_aside(g):
        gram = g @ g.T  # must be whole before it is used
        return gram @ g

    assert cost(optax.sgd(0.1), PARAMS).temporary_bytes < 1000
    assert cost(mapping(keeps_aside), {"w": struct((64, 32))}).temporary_bytes >= 64 * 64 * 4


def test_abstract_and_real_parameters_cost_the_same():
    real = jax.tree.map(lambda p: jnp.ones(p.shape, p.dtype), PARAMS)
    assert cost(optax.adamw(1e-3), real) == cost(optax.adamw(1e-3), PARAMS)


def test_the_state_alone_compiles_nothing(monkeypatch):
    def fail(*_, **__):
        raise AssertionError

    monkeypatch.setattr(jax.stages.Lowered, "compile", fail)
    found = cost(optax.adamw(1e-3), PARAMS, state_only=True)
    assert found == Cost(parameters=SIZE, state_bytes=8 * SIZE + 4, state_bytes_per_device=8 * SIZE + 4)


def llama_70b(mesh, layers):
    """Parameters of 70 billion, over 80 layers, in bfloat16."""

    def leaf(shape, *spec):
        return struct(shape, jnp.bfloat16, mesh, *spec)

    width, hidden, keys, words = 8192, 28672, 1024, 128256
    layer = {
        "query": leaf((width, width), "x", "y"),
        "key": leaf((width, keys), "x", "y"),
        "value": leaf((width, keys), "x", "y"),
        "out": leaf((width, width), "y", "x"),
        "gate": leaf((width, hidden), "x", "y"),
        "up": leaf((width, hidden), "x", "y"),
        "down": leaf((hidden, width), "y", "x"),
        "attention_norm": leaf((width,)),
        "mlp_norm": leaf((width,)),
    }
    ends = {"embed": leaf((words, width), "y", "x"), "head": leaf((width, words), "x", "y"), "norm": leaf((width,))}
    return {"layers": [layer] * layers, **ends}


@pytest.mark.slow
def test_the_state_of_70_billion_parameters_is_known_at_once():
    params = llama_70b(AbstractMesh((16, 16), ("x", "y"), axis_types=(AxisType.Auto,) * 2), layers=80)
    before = len(jax.live_arrays())
    start = time.perf_counter()
    found = cost(optax.adamw(1e-3, mu_dtype=jnp.float32), params, state_only=True)
    assert time.perf_counter() - start < 5  # 0.4 s where nothing else runs
    assert len(jax.live_arrays()) == before
    assert found.parameters == 70_553_706_496
    assert found.state_bytes == found.parameters * (4 + 2) + 4
    assert found.state_bytes / 256 < found.state_bytes_per_device < found.state_bytes / 250


@pytest.mark.slow
def test_the_step_of_a_large_model_is_compiled_without_allocating_it(mesh):
    params = llama_70b(mesh, layers=8)  # 7e9 parameters; all 80 layers take 10 s more
    before = len(jax.live_arrays())
    found = cost(optax.adamw(1e-3), params)
    assert len(jax.live_arrays()) == before
    assert 8 * found.parameters / 8 < found.flops < 30 * found.parameters / 8
    assert found.sent == {}  # an element-wise optimizer is sharded without a word


# Arithmetic.


def test_matrix_products_cost_two_operations_for_each_multiply_add():
    params = {"left": struct((64, 32)), "right": struct((32, 16)), "out": struct((64, 16))}
    update = cost(optax.stateless(product), params).flops
    applied = 64 * 32 + 32 * 16 + 64 * 16  # one addition for each parameter
    assert update == 2 * 64 * 32 * 16 + applied


@pytest.mark.parametrize("tx", [optax.adamw(1e-3), optax.lion(1e-3), optax.sgd(0.1, 0.9)], ids=["adamw", "lion", "sgd"])
def test_without_loops_agrees_with_xla(tx):
    state = tx.init(jax.tree.map(lambda p: jnp.ones(p.shape), PARAMS))

    def step(grads, state, params):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    analysis = jax.jit(step).lower(PARAMS, state, PARAMS).compile().cost_analysis()
    both = analysis["flops"] + analysis.get("transcendentals", 0)
    # XLA counts comparisons and conversions too.
    assert 0.6 * both < cost(tx, PARAMS).flops <= both


@pytest.mark.parametrize("length", [1, 5, 12])
def test_the_body_of_a_loop_counts_for_every_iteration(length):
    square = {"w": struct((32, 32))}

    def scan(g):
        return jax.lax.scan(lambda x, _: (x @ x, None), g, length=length)[0]

    def nested(g):
        return jax.lax.fori_loop(0, 3, lambda _, x: scan(x), g)

    applied = 32 * 32
    assert cost(mapping(scan), square).flops == length * 2 * 32**3 + applied
    assert cost(mapping(nested), square).flops == 3 * length * 2 * 32**3 + applied


def test_a_conditional_costs_its_dearest_branch():
    def either(g):
        return jax.lax.cond(g[0, 0] > 0, lambda x: x @ x, lambda x: x @ x @ x, g)

    assert cost(mapping(either), {"w": struct((32, 32))}).flops == 2 * 2 * 32**3 + 32 * 32


def test_a_loop_of_unknown_length_counts_once_and_is_reported():
    def until_small(g):
        return jax.lax.while_loop(lambda x: jnp.sum(x) > 1, lambda x: x @ x, g)

    found = cost(mapping(until_small), {"w": struct((32, 32))})
    assert found.open_loops == 1
    assert 2 * 32**3 <= found.flops < 2 * 32**3 + 4 * 32**2
    assert "loops of unknown length" in str(found)


def test_library_routines_are_reported_as_not_counted():
    found = cost(mapping(lambda g: jnp.linalg.qr(g)[0]), {"w": struct((32, 32))})
    assert sum(found.library_calls.values()) >= 1
    assert all(name in str(found) for name in found.library_calls)


def test_what_grad_fn_does_is_counted():
    def update(updates, state, params=None, *, grad_fn, **extra_args):
        del updates, extra_args
        return grad_fn(params), state

    tx = optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
    found = cost(tx, {"w": struct((32, 32))}, grad_fn=lambda p: jax.tree.map(lambda x: x @ x, p))
    assert found.flops == 2 * 32**3 + 32 * 32


@pytest.mark.parametrize("value", [1.0, np.float32(1), struct(()), "array"])
@pytest.mark.parametrize("workers", [{}, WORKERS], ids=["one", "workers"])
def test_values_may_be_numbers_arrays_or_abstract(value, workers):
    tx = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau())
    value = jnp.ones(()) if isinstance(value, str) else value
    assert cost(tx, PARAMS, value=value, **workers).flops > SIZE


# Communication between workers.


def test_a_mean_over_8_workers_sends_seven_quarters_of_the_bytes():
    found = cost(mapping(lambda g: jax.lax.pmean(g, "workers")), PARAMS, **WORKERS)
    assert found.sent == {"all-reduce": 2 * 7 * 4 * SIZE // 8}
    assert found.sent_when_taken == {}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int8])
@pytest.mark.parametrize(
    ("collective", "kind", "factor"),
    [
        (lambda g: jax.lax.psum(g, "workers"), "all-reduce", 2 * 7 / 8),
        (lambda g: jax.lax.all_gather(g, "workers")[3], "all-gather", 7),
        (lambda g: jnp.tile(jax.lax.psum_scatter(g, "workers", tiled=True), (8, 1)), "reduce-scatter", 7 / 8),
        (lambda g: jax.lax.all_to_all(g, "workers", 0, 0, tiled=True), "all-to-all", 7 / 8),
        (lambda g: jax.lax.ppermute(g, "workers", RING), "collective-permute", 1),
    ],
    ids=["psum", "all_gather", "psum_scatter", "all_to_all", "ppermute"],
)
def test_what_is_sent_is_not_the_size_of_the_result_and_has_the_dtype_of_the_program(collective, kind, factor, dtype):
    found = cost(mapping(collective), {"w": struct((64, 32), dtype)}, **WORKERS)
    assert found.sent == {kind: factor * 64 * 32 * dtype.dtype.itemsize}


def test_a_reduction_that_the_program_itself_widens_is_sent_wide():
    def widened(g):
        return jax.lax.pmean(g.astype(jnp.float32), "workers").astype(g.dtype)

    found = cost(mapping(widened), {"w": struct((64, 32), jnp.bfloat16)}, **WORKERS)
    assert found.sent == {"all-reduce": 7 / 4 * 64 * 32 * 4}


def test_equal_shapes_of_two_dtypes_are_told_apart():
    params = {"narrow": struct((64, 32), jnp.bfloat16), "wide": struct((64, 32))}
    found = cost(mapping(lambda g: jax.lax.pmean(g, "workers")), params, **WORKERS)
    assert found.sent == {"all-reduce": 7 / 4 * 64 * 32 * (2 + 4)}


def test_a_ring_sends_a_message_for_every_iteration_of_a_scan():
    def rounds(g):
        return jax.lax.scan(lambda x, _: (jax.lax.ppermute(x, "workers", RING), None), g, length=6)[0]

    assert cost(mapping(rounds), PARAMS, **WORKERS).sent == {"collective-permute": 6 * 4 * SIZE}


def test_groups_of_workers_count_by_their_size():
    def in_pairs(g):
        return jax.lax.psum(g, "workers", axis_index_groups=[[0, 1], [2, 3], [4, 5], [6, 7]])

    assert cost(mapping(in_pairs), PARAMS, **WORKERS).sent == {"all-reduce": 2 * 1 * 4 * SIZE // 2}


def test_a_message_to_oneself_is_not_sent():
    itself = [(i, i) for i in range(8)]
    assert cost(mapping(lambda g: jax.lax.ppermute(g, "workers", itself)), PARAMS, **WORKERS).sent == {}


def every_third_step(collective):
    def init(params):
        del params
        return jnp.zeros((), jnp.int32)

    def update(updates, count, params=None):
        del params
        updates = jax.lax.cond(count % 3 == 0, lambda u: jax.tree.map(collective, u), lambda u: u, updates)
        return updates, count + 1

    return optax.GradientTransformation(init, update)


def test_what_is_sent_under_a_conditional_is_reported_apart():
    found = cost(every_third_step(lambda g: jax.lax.pmean(g, "workers")), PARAMS, **WORKERS)
    assert found.sent == {}
    assert found.sent_when_taken == {"all-reduce": 7 * SIZE}
    assert "when the branch is taken" in str(found)
    assert "nothing" not in str(found)


def test_what_is_sent_every_third_step_counts_a_third_of_it_in_each():
    def in_turn(g):
        return jax.lax.pmean(g, "workers")

    tx = optax.chain(every_third_step(in_turn), mapping(lambda g: jax.lax.ppermute(g, "workers", RING)))
    found = cost(tx, PARAMS, every=3, **WORKERS)
    assert (found.sent, found.sent_when_taken) == ({"collective-permute": 4 * SIZE}, {"all-reduce": 7 * SIZE})
    assert found.sent_per_step == {"all-reduce": 7 * SIZE / 3, "collective-permute": 4 * SIZE}
    assert "sent per device and step, the branch taken every 3 steps, all-reduce" in str(found)
    assert cost(tx, PARAMS, **WORKERS).sent_per_step == {"all-reduce": 7 * SIZE, "collective-permute": 4 * SIZE}


def test_a_callable_tree_of_arrays_is_traced():
    class Gradients(NamedTuple):
        w: Any

        def __call__(self):
            raise AssertionError

    def update(updates, state, params=None, *, prev_grads, **extra_args):
        del params, extra_args
        return jax.tree.map(jnp.subtract, updates, prev_grads), state

    tx = optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
    params = Gradients(struct((32, 32)))
    assert cost(tx, params, prev_grads=params).flops == 2 * 32 * 32


def test_a_conditional_in_a_loop_counts_for_every_iteration():
    def gossip(g):
        def body(x, step):
            return jax.lax.cond(step % 2 == 0, lambda x: jax.lax.ppermute(x, "workers", RING), lambda x: x, x), None

        return jax.lax.scan(body, g, jnp.arange(6))[0]

    found = cost(mapping(gossip), PARAMS, **WORKERS)
    assert (found.sent, found.sent_when_taken) == ({}, {"collective-permute": 6 * 4 * SIZE})


def test_a_state_may_depend_on_the_worker():
    def init(params):
        return jax.tree.map(lambda p: jnp.full(p.shape, jax.lax.axis_index("workers"), p.dtype), params)

    def update(updates, state, params=None):
        del params
        return jax.tree.map(jnp.add, updates, state), state

    tx = optax.GradientTransformation(init, update)
    found = cost(tx, PARAMS, **WORKERS)
    assert (found.state_bytes, found.state_bytes_per_device, found.sent) == (4 * SIZE, 4 * SIZE, {})


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_workers_whose_parameters_are_sharded_send_their_shards(dtype):
    inner = AbstractMesh((2, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    params = {"w": struct((64, 32), dtype, inner, "x", "y")}
    tx = optax.chain(mapping(lambda g: jax.lax.pmean(g, "workers")), optax.trace(0.9))
    found = cost(tx, params, axis_name="workers", axis_size=2)
    size = 64 * 32 * dtype.dtype.itemsize
    assert found.sent == {"all-reduce": 2 * size // 4 // 2}
    assert (found.state_bytes, found.state_bytes_per_device) == (size, size // 4)


def test_extra_trees_are_sharded_as_they_say():
    inner = AbstractMesh((4,), ("x",), axis_types=(AxisType.Auto,))
    params = {"w": struct((64, 32), jnp.float32, inner, "x")}

    def update(updates, state, params=None, *, prev_grads, **extra_args):
        del params, extra_args
        return jax.tree.map(jnp.subtract, updates, prev_grads), state

    tx = optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
    for workers in {}, {"axis_name": "workers", "axis_size": 2}:
        found = cost(tx, params, prev_grads=params, **workers)
        assert (found.sent, found.flops) == ({}, 2 * 64 * 32 // 4)


# Communication that the partitioner inserts.


def sharded_product(mesh, dtype):
    return {
        "left": struct((64, 32), dtype, mesh, "x", "y"),
        "right": struct((32, 16), dtype, mesh, "y", None),
        "out": struct((64, 16), dtype, mesh, "x", None),
    }


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_sharded_matrix_product_is_summed_over_the_contracted_axis(mesh, dtype):
    def multiply(updates, params):
        del params
        contracted = jax.lax.dot_general  # on explicit axes the sum must be asked for
        out = contracted(
            updates["left"], updates["right"], (((1,), (0,)), ((), ())), out_sharding=NamedSharding(mesh, P("x"))
        )
        return {**updates, "out": out}

    tx = optax.stateless(multiply if AxisType.Explicit in mesh.axis_types else product)
    found = cost(tx, sharded_product(mesh, dtype))
    # A device holds 16 x 16 of the result, and shares it with one other.
    assert found.sent == {"all-reduce": 2 * 1 * 16 * 16 * dtype.dtype.itemsize // 2}
    additions = (64 * 32 // 8) + (32 * 16 // 2) + (64 * 16 // 4)
    assert found.flops == 2 * 16 * 16 * 16 + additions


def test_a_sharded_matrix_product_in_a_scan_counts_for_every_iteration():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))

    params = {"w": struct((64, 64), jnp.float32, mesh, "x", None)}

    def grams(length):
        return mapping(lambda g: jax.lax.scan(lambda x, _: (jnp.tanh(x.T @ g), None), g, length=length)[0])

    once, five = cost(grams(1), params), cost(grams(5), params)
    assert once.sent
    assert five.sent == {kind: 5 * size for kind, size in once.sent.items()}


def test_an_abstract_mesh_costs_what_a_real_one_does(mesh):
    params = sharded_product(mesh, jnp.float32)
    tx = optax.adamw(1e-3)
    assert cost(tx, sharded_product(mesh.abstract_mesh, jnp.float32)) == cost(tx, params)


def test_parameters_that_are_not_sharded_may_stand_beside_sharded_ones(mesh):
    params = {"w": struct((64, 32), jnp.float32, mesh, "x", "y"), "b": struct((32,))}
    found = cost(optax.adamw(1e-3), params)
    assert (found.sent, found.state_bytes_per_device) == ({}, 8 * (64 * 32 // 8 + 32) + 4)


@pytest.mark.slow
def test_costs_do_not_depend_on_the_mesh_in_use(mesh):
    talks = mapping(lambda g: jax.lax.pmean(g, "workers"))
    sharded = {"w": struct((64, 32), jnp.float32, mesh, "x", "y")}

    def costs():
        return cost(optax.adamw(1e-3), PARAMS), cost(talks, PARAMS, **WORKERS), cost(optax.adamw(1e-3), sharded)

    outside = costs()
    with jax.set_mesh(mesh):
        assert costs() == outside


@pytest.mark.parametrize("params", [{}, None, {"a": optax.MaskedNode(), "b": None}], ids=str)
def test_trees_without_parameters_cost_next_to_nothing(params):
    found = cost(optax.adam(1e-3), params)
    assert (found.parameters, found.state_bytes, found.state_bytes_per_parameter, found.sent) == (0, 4, 0.0, {})


def test_wrapped_optimizers():
    inner = optax.partition({"a": optax.adam(1e-3), "b": optax.sgd(0.1)}, {"w": "a", "b": "b"})
    found = cost(optax.MultiSteps(inner, 4).gradient_transformation(), PARAMS)
    assert found.state_bytes == 8 * 64 * 32 + 4 * SIZE + 3 * 4  # three counters


# What it says.


def test_more_workers_than_devices_is_an_error_that_says_what_to_do():
    with pytest.raises(ValueError, match=r"'workers': 9.* 9 devices.*JAX has 8.*'jax_num_cpu_devices', 9"):
        cost(optax.sgd(0.1), PARAMS, axis_name="workers", axis_size=9)
    found = cost(optax.sgd(0.1, momentum=0.9), PARAMS, axis_name="workers", axis_size=9, state_only=True)
    assert found.state_bytes == 4 * SIZE


@pytest.mark.parametrize("half", [{"axis_name": "workers"}, {"axis_size": 8}])
def test_an_axis_needs_its_name_and_its_size(half):
    with pytest.raises(ValueError, match="axis_name and axis_size go together"):
        cost(optax.sgd(0.1), PARAMS, **half)


def test_reads_well_as_text_and_as_a_table():
    found = cost(mapping(lambda g: jax.lax.pmean(g, "workers")), {"w": struct((1024, 1024))}, **WORKERS)
    assert str(found).splitlines() == [
        "parameters                            1,048,576",
        "state                                 0 B, 0 bytes per parameter",
        "state per device                      0 B",
        f"temporary memory per device           {found.temporary_bytes / 1e6:.3g} MB",
        "floating-point operations per device  2,097,152",
        "sent per device, all-reduce           7.34 MB",
    ]
    table = found._repr_html_()
    assert table.count("<tr>") == 6
    assert "<th>sent per device, all-reduce</th><td>7.34 MB</td>" in table


def test_a_cost_cannot_be_changed():
    found = cost(optax.sgd(0.1), PARAMS, state_only=True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.state_bytes = 0
