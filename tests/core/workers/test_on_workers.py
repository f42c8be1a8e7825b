"""What `on_workers` promises, on every backend."""

import logging
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

from optkit.core.workers import collectives
from optkit.core.workers.on_workers import on_workers, worker_axes
from optkit.decentralized import gossip
from optkit.decentralized.topology import ring

WORKERS = 8
BACKENDS = ("vmap", "pmap", "shard_map")
on_each_backend = pytest.mark.parametrize("backend", BACKENDS)


def rows(*shape, dtype=None):
    """Different numbers for each worker."""
    return jnp.asarray(np.random.default_rng(0).normal(size=(WORKERS, *shape)), dtype)


def assert_same_numbers(results):
    """Compares trees of float64 with the first one."""
    first, *others = jax.tree.map(np.asarray, results)
    for other in others:
        chex.assert_trees_all_close(other, first, rtol=1e-12, atol=1e-12)


@on_each_backend
def test_a_step_sees_its_own_rows_without_the_axis_of_workers(backend):
    seen = {}

    def step(own, equal):
        seen.update(own=own.shape, scalar=own[0, 0].shape, equal=equal.shape)
        return own.sum(), equal

    own, equal = rows(2, 3), jnp.ones((5,))
    sums, unchanged = on_workers(step, axis_name="workers", in_axes=(0, None), out_axes=(0, None), backend=backend)(
        own, equal
    )

    assert seen == {"own": (2, 3), "scalar": (), "equal": (5,)}
    np.testing.assert_allclose(sums, np.asarray(own).sum(axis=(1, 2)), rtol=1e-6)
    np.testing.assert_array_equal(unchanged, equal)


@on_each_backend
@pytest.mark.usefixtures("x64")
def test_data_parallel_training_equals_training_on_all_data(backend):
    tx = optax.adam(0.1)
    inputs, targets = rows(4, 3, dtype="float64"), rows(4, dtype="float64")

    def loss(params, inputs, targets):
        return jnp.mean((jnp.tanh(inputs @ params) - targets) ** 2)

    def train(step):
        params: Any = jnp.zeros(3, "float64")
        state = tx.init(params)
        for _ in range(5):
            params, state = step(params, state)
        return params

    def update(grads, state, params):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def one_worker(params, state, inputs, targets):
        return update(collectives.pmean(jax.grad(loss)(params, inputs, targets), "workers"), state, params)

    mapped = on_workers(one_worker, axis_name="workers", in_axes=(None, None, 0, 0), out_axes=None, backend=backend)

    expected = train(lambda p, s: update(jax.grad(loss)(p, inputs.reshape(-1, 3), targets.reshape(-1)), s, p))
    params = train(lambda p, s: mapped(p, s, inputs, targets))
    np.testing.assert_allclose(params, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_all_backends_give_the_same_numbers():
    def step(count, own, x, key, raw_key):
        key, noise_key = jax.random.split(key)
        raw_key, raw_noise_key = jax.random.split(jax.random.wrap_key_data(raw_key))
        noise = jax.random.normal(noise_key, x.shape, x.dtype) + jax.random.normal(raw_noise_key, x.shape, x.dtype)
        noise += jax.random.normal(jax.random.fold_in(jax.random.key(3), jax.lax.axis_index("workers")), x.shape)
        ring = [(i, (i + 1) % WORKERS) for i in range(WORKERS)]
        x = x + noise + 0.1 * jax.lax.ppermute(x, "workers", ring)
        own = {"fast": 0.9 * own["fast"] + x, "slow": (own["slow"][0] + jnp.sin(x), None), "none": None}
        own = collectives.cond(count % 3 == 2, lambda own: collectives.pmean(own, "workers"), lambda own: own, own)
        gathered = jax.lax.all_gather(x, "workers")
        return (
            count + 1,
            own,
            x,
            key,
            jax.random.key_data(raw_key),
            {"all": gathered, "max": jax.lax.pmax(x, "workers")},
        )

    def train(backend):
        mapped = on_workers(
            step,
            axis_name="workers",
            in_axes=(None, {"fast": 0, "slow": 0, "none": None}, 0, 0, 0),
            out_axes=(None, 0, 0, 0, 0, None),
            backend=backend,
        )
        keys = jax.random.split(jax.random.key(0), WORKERS)
        raw_keys = jax.random.key_data(jax.random.split(jax.random.key(1), WORKERS))
        own = {"fast": rows(3, dtype="float64"), "slow": (rows(dtype="float64")[:, None], None), "none": None}
        carry, equal = (jnp.int32(0), own, rows(3, dtype="float64"), keys, raw_keys), None
        for _ in range(4):
            *carry, equal = mapped(*carry)
        count, own, x, keys, raw_keys = carry
        assert jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
        return count, own, x, jax.random.key_data(keys), raw_keys, equal

    assert_same_numbers([train(backend) for backend in BACKENDS])


@pytest.mark.usefixtures("x64")
def test_gradients_of_collectives_are_the_same_on_all_backends():
    def step(weight, x):
        def consensus_loss(weight):
            return jnp.sum((weight * x - jax.lax.pmean(weight * x, "workers")) ** 2)

        return jax.grad(consensus_loss)(weight), jax.grad(lambda w: jax.lax.pmean(jnp.sum((w * x) ** 2), "workers"))(
            weight
        )

    weight, x = jnp.float64(0.7), rows(3, dtype="float64")
    assert_same_numbers(
        [on_workers(step, axis_name="workers", in_axes=(None, 0), backend=backend)(weight, x) for backend in BACKENDS]
    )


@on_each_backend
def test_a_counter_that_is_equal_on_all_workers_keeps_the_branch(backend):
    talks = []

    def step(count, x):
        def talk(x):
            jax.debug.callback(talks.append, x)
            return jax.lax.pmean(x, "workers")

        return count + 1, collectives.cond(count % 5 == 4, talk, lambda x: x, x)

    step = on_workers(step, axis_name="workers", in_axes=(None, 0), out_axes=(None, 0), backend=backend)
    count, x = jnp.int32(0), rows()
    for _ in range(10):
        count, x = step(count, x)
    jax.effects_barrier()

    assert len(talks) == 2 * WORKERS


@on_each_backend
def test_prefix_trees_reach_into_optimizer_states(backend):
    tx = optax.adam(0.1)
    params = {"kernel": rows(3), "none": None}
    state: Any = optax.tree.set(jax.vmap(tx.init)(params), count=jnp.int32(0))
    axes: Any = (optax.ScaleByAdamState(count=None, mu=0, nu=0), optax.EmptyState())  # type: ignore[arg-type]  # axes

    def step(params, state):
        assert optax.tree.get(state, "count").shape == ()
        return tx.update(params, state)

    step = on_workers(step, axis_name="workers", in_axes=[0, axes], out_axes=(0, axes), backend=backend)
    updates: Any
    updates, state = step(params, state)

    assert optax.tree.get(state, "count") == 1
    chex.assert_trees_all_close(updates["kernel"], -0.1 * jnp.sign(params["kernel"]), rtol=1e-5)


@pytest.mark.parametrize("backend", [*BACKENDS, "auto"])
def test_a_result_that_differs_between_workers_cannot_be_declared_equal(backend):
    class Report(NamedTuple):
        mean: Any
        losses: Any

    def step(x):
        return Report(mean=jax.lax.pmean(x, "workers"), losses=(jnp.zeros(()), x**2))

    step = on_workers(step, axis_name="workers", out_axes=Report(mean=None, losses=(None, None)), backend=backend)
    with pytest.raises(ValueError, match=r"result\.losses\[1\] is declared equal on all workers"):
        step(rows())


@on_each_backend
def test_the_second_call_neither_traces_nor_compiles(backend, caplog):
    traces = []

    def step(own, equal, x):
        traces.append(x.shape)
        own = own + x
        return own, equal + jax.lax.pmean(own, "workers").sum()

    step = on_workers(step, axis_name="workers", in_axes=(0, None, 0), out_axes=(0, None), backend=backend)
    x = rows(3)
    with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
        own, equal = step(jnp.zeros((WORKERS, 3)), jnp.zeros(()), x)
        compilations, first_traces = caplog.text.count("Finished XLA compilation"), len(traces)
        step(own, equal, x)

    assert first_traces == 2  # once under vmap for the check, once for real
    assert compilations >= 1
    assert len(traces) == first_traces
    assert caplog.text.count("Finished XLA compilation") == compilations


@pytest.mark.slow
@on_each_backend
def test_it_works_under_jit_scan_vmap_and_grad(backend):
    def step(scale, x):
        return scale * x + jax.lax.pmean(x, "workers")

    step = on_workers(step, axis_name="workers", in_axes=(None, 0), backend=backend)
    x = rows(3)

    def expected(scale, x):
        return scale * x + x.mean(axis=0)

    np.testing.assert_allclose(jax.jit(step)(0.5, x), expected(0.5, x), rtol=1e-5, atol=1e-6)
    scanned, _ = jax.jit(lambda x: jax.lax.scan(lambda x, _: (step(0.5, x), None), x, length=2))(x)
    np.testing.assert_allclose(scanned, expected(0.5, expected(0.5, x)), rtol=1e-5, atol=1e-6)
    seeds = jnp.stack([x, 2 * x])
    rates = jnp.array([0.1, 0.2])
    np.testing.assert_allclose(jax.vmap(step)(rates, seeds), jax.vmap(expected)(rates, seeds), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        jax.grad(lambda x: jnp.sum(step(0.5, x) ** 2))(x),
        jax.grad(lambda x: jnp.sum(expected(0.5, x) ** 2))(x),
        rtol=1e-5,
        atol=1e-5,
    )


@on_each_backend
def test_a_step_may_close_over_traced_values(backend):
    @jax.jit
    def outer(scale, x):
        return on_workers(lambda x: scale * jax.lax.psum(x, "workers"), axis_name="workers", backend=backend)(x)

    np.testing.assert_allclose(outer(2.0, jnp.ones(WORKERS)), np.full(WORKERS, 2.0 * WORKERS))


@on_each_backend
def test_an_outer_jit_can_donate(backend):
    step = on_workers(lambda x: x + jax.lax.pmean(x, "workers"), axis_name="workers", backend=backend)
    step = jax.jit(step, donate_argnums=0)
    x = step(rows(3))
    step(x)
    assert x.is_deleted()


@on_each_backend
def test_arrays_may_lie_anywhere(backend):
    step = on_workers(lambda own, equal: own + equal, axis_name="workers", in_axes=(0, None), backend=backend)
    x = np.arange(WORKERS, dtype=np.float32)
    np.testing.assert_array_equal(step(x, 1.0), x + 1)

    other_device = SingleDeviceSharding(jax.devices()[3])
    places: list[Any] = [(other_device, other_device)]
    for shape, names, spec, axis_type in (
        ((4, 2), ("data", "model"), PartitionSpec("data"), AxisType.Explicit),
        ((8,), ("workers",), PartitionSpec("workers"), AxisType.Explicit),
        ((8,), ("workers",), PartitionSpec(), AxisType.Auto),
    ):
        mesh = jax.make_mesh(shape, names, axis_types=(axis_type,) * len(names))
        places.append((NamedSharding(mesh, spec), NamedSharding(mesh, PartitionSpec())))
    for own_place, equal_place in places:
        own, equal = jax.device_put(x, own_place), jax.device_put(jnp.ones(()), equal_place)
        np.testing.assert_array_equal(step(own, equal), x + 1)


def test_auto_takes_devices_where_there_are_enough_and_simulates_otherwise():
    step = on_workers(lambda x: x - jax.lax.pmean(x, "workers"), axis_name="workers")
    assert step(jnp.arange(8.0)).sharding.device_set == set(jax.devices())
    assert step(jnp.arange(3.0)).sharding.device_set == set(jax.devices()[:3])
    assert len(step(jnp.arange(9.0)).sharding.device_set) == 1


@pytest.mark.parametrize("backend", ["pmap", "shard_map"])
def test_each_worker_has_its_own_device(backend):
    step = on_workers(lambda x: x + 1, axis_name="workers", backend=backend)
    shards = step(jnp.arange(float(WORKERS))).addressable_shards
    assert {shard.device for shard in shards} == set(jax.devices())
    assert all(shard.data.shape == (1,) for shard in shards)


@pytest.mark.parametrize("backend", ["pmap", "shard_map"])
def test_more_workers_than_devices_is_an_error_that_says_what_to_do(backend):
    step = on_workers(lambda x: x, axis_name="workers", backend=backend)
    with pytest.raises(ValueError, match=r"9 workers and 8 devices: .*vmap.*device_count=9"):
        step(jnp.arange(9.0))


@pytest.mark.parametrize("backend", ["auto", "pmap", "shard_map"])
def test_a_mesh_that_is_already_set_is_an_error(backend):
    step = on_workers(lambda x: x, axis_name="workers", backend=backend)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh), pytest.raises(ValueError, match=r"outside jax\.set_mesh"):
        step(jnp.arange(8.0))


def test_an_unknown_backend_is_an_error():
    with pytest.raises(ValueError, match=r"'auto', 'vmap', 'pmap', 'shard_map', got 'xmap'"):
        on_workers(lambda x: x, axis_name="workers", backend="xmap")  # type: ignore[arg-type]  # the error is the test


@pytest.mark.parametrize("axes", [1, -1, True, (0, 1), {"a": 0.0}, "0"])
def test_axes_other_than_0_and_none_are_an_error(axes):
    with pytest.raises(ValueError, match="in_axes must be a prefix tree of 0"):
        on_workers(lambda x: x, axis_name="workers", in_axes=axes)
    with pytest.raises(ValueError, match="out_axes must be a prefix tree of 0"):
        on_workers(lambda x: x, axis_name="workers", out_axes=axes)


def test_in_axes_have_an_entry_for_each_argument():
    with pytest.raises(TypeError, match="tuple of entries corresponding to the positional arguments"):
        on_workers(lambda x: x, axis_name="workers", in_axes={"a": 0})
    with pytest.raises(ValueError, match="in_axes must be a prefix tree of what it describes"):
        on_workers(lambda x: x, axis_name="workers", in_axes=(0, None))(rows())


@on_each_backend
def test_out_axes_must_fit_the_results(backend):
    step = on_workers(lambda x: {"a": x}, axis_name="workers", out_axes={"b": 0}, backend=backend)
    with pytest.raises(ValueError, match="out_axes must be a prefix tree of what it describes"):
        step(rows())


@on_each_backend
@pytest.mark.parametrize(("other", "shape"), [(jnp.ones((3,)), r"\(3,\)"), (jnp.ones(()), r"\(\)")])
def test_leading_axes_that_disagree_are_an_error(backend, other, shape):
    step = on_workers(lambda _, x: x, axis_name="workers", backend=backend)
    with pytest.raises(ValueError, match=rf"args\[0\]\['a'\] of shape \(8, 2\), args\[1\] of shape {shape}"):
        step({"a": rows(2), "none": None}, other)


@on_each_backend
def test_at_least_one_worker_is_needed(backend):
    mapped = on_workers(lambda x: x, axis_name="workers", backend=backend)
    with pytest.raises(ValueError, match=r"at least 1, one row per worker, got args\[0\] of shape \(0, 3\)"):
        mapped(jnp.zeros((0, 3)))


@pytest.mark.parametrize("axis_name", [None, ("data", "model"), 3])
def test_the_axis_has_one_name(axis_name):
    with pytest.raises(ValueError, match="axis_name must be the name of one axis"):
        on_workers(jnp.sin, axis_name=axis_name)
    with pytest.raises(ValueError, match="axis_name must be the name of one axis"):
        worker_axes(optax.sgd(0.1), rows(3), axis_name=axis_name)


@on_each_backend
def test_at_least_one_argument_is_per_worker(backend):
    step = on_workers(lambda _, x: x, axis_name="workers", in_axes=(0, None), backend=backend)
    with pytest.raises(ValueError, match="the number of workers is unknown"):
        step({"none": None}, rows())


class DelayedState(NamedTuple):
    """A state whose leaves differ between workers from different updates on, or never."""

    count: Any
    first: Any
    second: Any
    third: Any
    mean: Any
    gathered: Any
    own: Any
    nothing: None = None


def delayed():
    """Hands gradients on from leaf to leaf; `mean` and `gathered` are equal on all workers, `own` never is."""

    def init(params) -> Any:
        zeros = optax.tree.zeros_like(params)
        gathered = jnp.zeros((WORKERS, 3))
        return DelayedState(jnp.int32(0), zeros, zeros, zeros, zeros, gathered, jax.lax.axis_index("workers"))

    def update(updates, state, params=None) -> Any:
        del params
        mean = collectives.cond(
            state.count % 2 == 0, lambda g: collectives.pmean(g, "workers"), lambda _: state.mean, updates
        )
        gathered = jax.lax.all_gather(updates, "workers")
        return state.third, DelayedState(
            state.count + 1, updates, state.first, state.second, mean, gathered, state.own, None
        )

    return optax.GradientTransformation(init, update)


@on_each_backend
def test_worker_axes_are_those_after_any_number_of_updates(backend):
    tx, gradients = delayed(), rows(3)
    axes = worker_axes(tx, gradients, axis_name="workers")

    assert axes == DelayedState(count=None, first=0, second=0, third=0, mean=None, gathered=None, own=0)
    state = on_workers(tx.init, axis_name="workers", out_axes=axes, backend=backend)(gradients)
    step = on_workers(tx.update, axis_name="workers", in_axes=(0, axes), out_axes=(0, axes), backend=backend)
    updates, state = step(gradients, state)
    for _ in range(3):
        updates, state = step(gradients, state)
    np.testing.assert_array_equal(updates, gradients)
    np.testing.assert_allclose(state.mean, jnp.mean(gradients, axis=0), rtol=1e-6)


def test_worker_axes_take_abstract_parameters_and_any_tree():
    params: Any = {"w": jax.ShapeDtypeStruct((WORKERS, 2), jnp.bfloat16), "none": None, "nested": (rows(1), {})}
    tx = optax.chain(optax.masked(optax.trace(0.9), {"w": False, "none": None, "nested": True}), optax.adam(0.1))
    axes = worker_axes(tx, params, axis_name="workers")
    like_params = {"w": 0, "none": None, "nested": (0, {})}
    assert axes[0].inner_state.trace == {**like_params, "w": optax.MaskedNode()}
    assert axes[1][0]._asdict() == {"count": None, "mu": like_params, "nu": like_params}


def of_anchor(**extra):
    """Gives the axes of a state that keeps what `extra` gives at a point equal on all workers."""

    def init(params):
        del params
        return jnp.zeros(())

    def update(updates, state, params=None, **extra) -> Any:
        del params
        (given,) = extra.values()
        return updates, given(state) if callable(given) else state + given

    tx = optax.GradientTransformationExtraArgs(init, update)
    return worker_axes(tx, rows(3), axis_name="workers", **extra)


def test_worker_axes_know_that_functions_and_arrays_differ_between_workers():
    assert of_anchor(grad_fn=jnp.sin) == 0
    assert of_anchor(grad_fn=lambda x: collectives.pmean(jnp.sin(x), "workers")) is None
    assert of_anchor(grad_fn=lambda _: jnp.float32(1)) is None
    assert of_anchor(value=rows()) == 0
    assert of_anchor(value=1.0) == 0
    assert of_anchor(links=jnp.float32(1)) is None


def test_worker_axes_keep_a_conditional_a_branch():
    tx, params = gossip(optax.sgd(0.1), ring(WORKERS), axis_name="workers", every=8), rows(3)
    axes = worker_axes(tx, params, axis_name="workers")

    def program(axes):
        state = on_workers(tx.init, axis_name="workers", out_axes=axes, backend="vmap")(params)
        step = on_workers(tx.update, axis_name="workers", in_axes=(0, axes, 0), out_axes=(0, axes), backend="vmap")
        return str(jax.make_jaxpr(step)(params, state, params))

    assert " cond[" in program(axes)
    assert " cond[" not in program(0)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "no array among params and extra_args"),
        ({"w": jnp.zeros(())}, r"got params\['w'\] of shape \(\)"),
        ({"w": jnp.zeros((0, 3))}, r"at least 1, one row per worker, got params\['w'\]"),
        ({"w": jnp.zeros((8, 3)), "b": jnp.zeros(7)}, r"params\['b'\] of shape \(7,\), params\['w'\]"),
    ],
)
def test_worker_axes_need_the_parameters_of_all_workers(params, message):
    with pytest.raises(ValueError, match=message):
        worker_axes(optax.sgd(0.1), params, axis_name="workers")


def test_worker_axes_name_extra_arguments_without_rows():
    with pytest.raises(ValueError, match=r"extra_args\['value'\] of shape \(3,\)"):
        worker_axes(optax.sgd(0.1), rows(3), axis_name="workers", value=jnp.zeros(3))
