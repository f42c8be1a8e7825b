"""`state_shardings` promises the right place for every leaf of a state, and only places that exist."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

from optkit.core.workers.sharding import state_shardings

P = PartitionSpec


class ThinFactorState(NamedTuple):
    count: jax.Array
    factor: optax.Updates


def thin_factor(rank=3):
    """Keeps an (n, rank) matrix at the place of each (..., m, n) parameter, and nothing for other parameters."""

    def init(params):
        def factor(p):
            return jnp.ones((*p.shape[:-2], p.shape[-1], rank)) if p.ndim >= 2 else optax.MaskedNode()

        return ThinFactorState(jnp.zeros((), jnp.int32), jax.tree.map(factor, params))

    return optax.GradientTransformation(init, optax.identity().update)


@pytest.fixture(params=[AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def mesh(request):
    return jax.make_mesh((4, 2), ("x", "y"), axis_types=(request.param,) * 2)


def abstract_params(mesh):
    def leaf(shape, *spec):
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, P(*spec)))

    # Neither 6 nor 10 nor 3 divides by 4.
    return {
        "dense": {"kernel": leaf((160, 128), "x", "y"), "bias": leaf((128,), "y")},
        "stack": leaf((6, 16, 10), "y", "x"),
        "square": leaf((128, 128), "y", None),
        "embed": leaf((24, 3), ("x", "y")),
        "scale": leaf(()),
        "absent": None,
    }


def concrete(params):
    return jax.tree.map(lambda p: jax.device_put(np.ones(p.shape, p.dtype), p.sharding), params)


def assert_same_sharding(found, wanted, ndim):
    assert found.is_equivalent_to(wanted, ndim), (found, wanted)


OPTIMIZERS = {
    "adamw": optax.adamw(1e-3),
    "adafactor": optax.adafactor(1e-3, momentum=0.9),
    "muon": optax.contrib.muon(1e-3),
    "sm3": optax.sm3(1e-3),
    "thin_factor": thin_factor(),
    "masked": optax.masked(optax.adam(1e-3), lambda tree: jax.tree.map(lambda p: p.ndim == 2, tree)),
    "partition": optax.partition(
        {"a": optax.adam(1e-3), "b": thin_factor()}, lambda tree: jax.tree.map(lambda p: "ab"[p.ndim > 1], tree)
    ),
    "multi_steps": optax.MultiSteps(optax.adam(1e-3), 2).gradient_transformation(),
    "inject": optax.inject_hyperparams(optax.adamw)(1e-3),
    "if_finite": optax.apply_if_finite(optax.adam(1e-3), 3),
    "noisy": optax.noisy_sgd(1e-3, key=0),
    "stateless": optax.sgd(1e-3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_jitted_init_accepts_the_shardings_and_puts_every_leaf_there(name, mesh):
    tx, abstract = OPTIMIZERS[name], abstract_params(mesh)
    shardings = state_shardings(tx, abstract)
    state = jax.jit(tx.init, out_shardings=shardings)(concrete(abstract))
    assert jax.tree.structure(state) == jax.tree.structure(shardings)
    jax.tree.map(lambda x, s: assert_same_sharding(x.sharding, s, x.ndim), state, shardings)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_leaves_shaped_like_their_parameter_are_sharded_like_it_and_scalars_are_replicated(name, mesh):
    tx, abstract = OPTIMIZERS[name], abstract_params(mesh)
    shardings = state_shardings(tx, abstract)
    by_shape = {p.shape: p.sharding for p in jax.tree.leaves(abstract)}

    def check(leaf, sharding):
        a_factor = name in ("sm3", "adafactor") and leaf.ndim == 1  # its size may be another parameter's by chance
        if leaf.shape in by_shape and not a_factor:
            assert_same_sharding(sharding, by_shape[leaf.shape], leaf.ndim)
        elif leaf.ndim == 0:
            assert sharding.is_fully_replicated

    jax.tree.map(check, jax.eval_shape(tx.init, abstract), shardings)


@pytest.mark.parametrize("name", ["adamw", "masked", "partition", "multi_steps", "inject", "if_finite"])
def test_agrees_with_eager_init_on_what_follows_the_parameters(name, mesh):
    tx, abstract = OPTIMIZERS[name], abstract_params(mesh)

    def check(leaf, sharding):
        if not leaf.is_fully_replicated:
            assert_same_sharding(sharding, leaf.sharding, leaf.ndim)

    jax.tree.map(check, tx.init(concrete(abstract)), state_shardings(tx, abstract))


def test_real_and_abstract_parameters_give_the_same(mesh):
    abstract = abstract_params(mesh)
    tx = OPTIMIZERS["adamw"]
    assert state_shardings(tx, concrete(abstract)) == state_shardings(tx, abstract)


def test_other_shapes_keep_the_axes_that_match_one_axis_of_the_parameter(mesh):
    factor = state_shardings(thin_factor(), abstract_params(mesh)).factor
    assert factor["dense"]["kernel"].spec == P("y", None)
    assert factor["stack"].spec == P("y", None, None)
    assert factor["square"].spec == P(None, None)  # 128: its first axis or its second?
    rows = state_shardings(optax.scale_by_factored_rms(), abstract_params(mesh))
    assert (rows.v_row["dense"]["kernel"].spec, rows.v_col["dense"]["kernel"].spec) == (P("y"), P("x"))
    accumulators = state_shardings(optax.scale_by_sm3(), abstract_params(mesh)).mu
    assert [s.spec for s in accumulators["dense"]["kernel"]] == [P("x"), P("y")]
    assert [s.spec for s in accumulators["stack"]] == [P("y"), P("x"), P(None)]


def test_never_uses_a_mesh_axis_twice(mesh):
    def init(params):  # one (n, n) preconditioner for each (m, n) parameter
        return jax.tree.map(lambda p: jnp.eye(p.shape[-1]), params)

    params = {"w": abstract_params(mesh)["dense"]["kernel"]}
    shardings = state_shardings(optax.GradientTransformation(init, optax.identity().update), params)
    assert shardings["w"].spec == P("y", None)


def test_a_factor_of_another_dimension_than_the_parameter_is_never_split_unevenly(mesh):
    # rank 3 does not divide by any axis of the mesh, 4 does, and belongs to no axis of the parameter
    for rank in (3, 4):
        factor = state_shardings(thin_factor(rank), abstract_params(mesh)).factor["dense"]["kernel"]
        assert factor.shard_shape((128, rank)) == (64, rank)


def test_states_of_tuples_of_parameters_are_not_taken_for_the_parameters(mesh):
    # The chain's state is a pair, as the parameters are.
    params = tuple(
        jax.ShapeDtypeStruct((16, 8), jnp.float32, sharding=NamedSharding(mesh, P(*spec)))
        for spec in (("x", "y"), ("y", "x"))
    )
    first, second = state_shardings(optax.chain(optax.scale_by_adam(), optax.trace(0.9)), params)
    specs = [p.sharding.spec for p in params]
    assert [s.spec for s in first.mu] == specs
    assert [s.spec for s in second.trace] == specs


def test_a_single_array_as_parameters(mesh):
    params = abstract_params(mesh)["dense"]["kernel"]
    shardings = state_shardings(optax.adam(1e-3), params)
    assert (shardings[0].mu.spec, shardings[0].count.spec) == (P("x", "y"), P())


@pytest.mark.parametrize("params", [{}, (), None, {"a": optax.MaskedNode()}], ids=str)
def test_trees_without_arrays(params):
    shardings = state_shardings(optax.adam(1e-3), params)
    assert jax.tree.structure(shardings) == jax.tree.structure(optax.adam(1e-3).init(params))
    jax.jit(optax.adam(1e-3).init, out_shardings=shardings)(params)


def test_unsharded_parameters_keep_their_device():
    device = jax.devices()[3]
    params = {"w": jax.device_put(jnp.ones((4, 2)), device)}
    shardings = state_shardings(optax.adam(1e-3), params)
    assert set(jax.tree.leaves(shardings)) == {SingleDeviceSharding(device)}


@pytest.mark.parametrize("w", [np.ones((4, 2)), jax.ShapeDtypeStruct((4, 2), jnp.float32)], ids=["numpy", "abstract"])
def test_parameters_on_no_device_go_to_the_first(w):
    shardings = state_shardings(optax.adam(1e-3), {"w": w})
    assert set(jax.tree.leaves(shardings)) == {SingleDeviceSharding(jax.devices()[0])}


def test_unsharded_parameters_beside_sharded_ones_count_as_replicated(mesh):
    params = {"w": concrete(abstract_params(mesh)["dense"]["kernel"]), "b": jnp.ones(8)}
    shardings = state_shardings(optax.adam(1e-3), params)
    assert shardings[0].mu["b"] == NamedSharding(mesh, P())
    jax.jit(optax.adam(1e-3).init, out_shardings=shardings)(params)


def test_allocates_nothing(mesh):
    params = {"w": jax.ShapeDtypeStruct((2**22, 2**22), jnp.float32, sharding=NamedSharding(mesh, P("x", "y")))}
    before = len(jax.live_arrays())
    shardings = state_shardings(optax.adamw(1e-3), params)
    assert shardings[0].nu["w"] == params["w"].sharding
    assert len(jax.live_arrays()) == before


def test_memory_kind_follows_the_parameter(mesh):
    sharding = NamedSharding(mesh, P("x", "y"), memory_kind="unpinned_host")
    params = {"w": jax.ShapeDtypeStruct((160, 128), jnp.float32, sharding=sharding)}
    assert state_shardings(optax.adam(1e-3), params)[0].mu["w"].memory_kind == "unpinned_host"
    assert state_shardings(thin_factor(), params).factor["w"].memory_kind == "unpinned_host"


def test_linen_parameters_with_partitioning_metadata(mesh):
    kernel = abstract_params(mesh)["dense"]["kernel"]
    params = {"params": {"kernel": nn.Partitioned(kernel, names=("x", "y"))}}
    shardings = state_shardings(optax.adam(1e-3), params)
    assert shardings[0].mu["params"]["kernel"].value == kernel.sharding


@pytest.mark.parametrize("name", ["adamw", "adafactor", "partition"])
def test_orbax_restores_to_these_shardings(name, mesh, tmp_path):
    tx, abstract = OPTIMIZERS[name], abstract_params(mesh)
    shardings = state_shardings(tx, abstract)
    state = jax.jit(tx.init, out_shardings=shardings)(concrete(abstract))
    target = jax.tree.map(lambda x, s: x.update(sharding=s), jax.eval_shape(tx.init, abstract), shardings)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", target)
    jax.tree.map(lambda x, s: assert_same_sharding(x.sharding, s, x.ndim), restored, shardings)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
