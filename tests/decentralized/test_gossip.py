"""What gossip and DADAM promise: the recorded runs, both orders, local steps, and means that stay."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_files import assert_replays, replays
from worker_runs import topology_of

import optkit
from optkit.decentralized import chebyshev_mix, dadam, gossip, links_among, lossy_links
from optkit.decentralized.topology import complete, one_peer_exponential, ring
from optkit.testing import golden

WORKERS = 4
over_ring = functools.partial(gossip, topology=ring(WORKERS), axis_name="workers")


def numbers(*shape, seed=0, dtype=None):
    drawn = np.random.default_rng(seed).normal(size=(WORKERS, *shape))
    return drawn.astype(jax.dtypes.canonicalize_dtype(float) if dtype is None else dtype)


def train(tx, params, gradients, **extra_args):
    """Takes a step for each gradient; gives all parameters after each, and the last state."""
    tx = optax.with_extra_args_support(tx)

    def step(carry, gradient):
        params, state = carry
        updates, state = tx.update(gradient, state, params, **extra_args)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    def one_worker(params, gradients):
        return jax.lax.scan(step, (params, tx.init(params)), gradients)

    (_, state), trajectory = jax.jit(jax.vmap(one_worker, axis_name="workers"))(params, gradients)
    return trajectory, state


ORDERS = ("atc", "cta")


def recorded_rate(hyperparams):
    """A number, or for example "0.2/t, t=1,2,..." as a schedule."""
    if not hyperparams.is_word("learning_rate"):
        return hyperparams["learning_rate"]
    first = float(hyperparams.match("learning_rate", r"([\d.e+-]+)/t, t=1,2,\.\.\.")[1])
    return lambda count: first / (count + 1)


@pytest.mark.slow
@replays("dsgd", "dsgdm")
def test_gossip_golden(recording):
    found = recording.hyperparams
    dampening = found.get("dampening", 0.0)
    inner = optax.chain(
        optax.add_decayed_weights(found.get("weight_decay", 0.0)),
        # The first gradient is not dampened.
        optax.scale_by_schedule(lambda count: jnp.where(count == 0, 1.0, 1.0 - dampening)),
        optax.sgd(recorded_rate(found), found.get("momentum", 0.0), found.get("nesterov", False)),
    )
    tx = gossip(inner, topology_of(recording), axis_name="workers", order=found.word("order", ORDERS))
    assert_replays(recording, golden.replay_workers(tx, recording))


@replays("dadam")
def test_dadam_golden(recording):
    found = recording.hyperparams
    tx = dadam(
        recorded_rate(found),
        topology_of(recording),
        found["b1"],
        found["b2"],
        found["eps"],
        found["weight_decay"],
        axis_name="workers",
        order=found.word("order", ORDERS),
    )
    assert_replays(recording, golden.replay_workers(tx, recording))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("order", ["atc", "cta"])
def test_the_order_of_step_and_mixing(order):
    params, gradients = numbers(3), numbers(2, 3, seed=1)
    trajectory, _ = train(over_ring(optax.sgd(0.1), order=order), params, gradients)
    matrix, expected = ring(WORKERS).matrices[0], np.asarray(params)
    for index in range(2):
        change = -0.1 * np.asarray(gradients[:, index])
        expected = matrix @ expected + change if order == "cta" else matrix @ (expected + change)
        np.testing.assert_allclose(trajectory[:, index], expected, rtol=0, atol=1e-14)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("order", ["atc", "cta"])
def test_local_steps_lie_between_exchanges_that_take_a_periodic_topology_in_turn(order):
    topology = one_peer_exponential(WORKERS)
    params, gradients = numbers(3), numbers(6, 3, seed=1)
    tx = gossip(optax.sgd(0.1), topology, axis_name="workers", every=3, order=order)
    trajectory, state = train(tx, params, gradients)
    expected = np.asarray(params)
    for index in range(6):
        matrix = topology.matrices[index // 3] if index % 3 == 2 else np.eye(WORKERS)
        change = -0.1 * np.asarray(gradients[:, index])
        expected = matrix @ expected + change if order == "cta" else matrix @ (expected + change)
        np.testing.assert_allclose(trajectory[:, index], expected, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(state.count, 6)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_mean_moves_as_without_exchange_where_links_are_lost():
    params, gradients = numbers(5), numbers(4, 5, seed=1)
    links = lossy_links(jax.random.key(0), WORKERS, 0.5)
    mixed, _ = train(over_ring(optax.sgd(0.1, momentum=0.9)), params, gradients, links=links)
    alone, _ = train(optax.sgd(0.1, momentum=0.9), params, gradients)
    mixed, alone = np.asarray(mixed), np.asarray(alone)
    np.testing.assert_allclose(mixed.mean(axis=0), alone.mean(axis=0), rtol=0, atol=1e-14)
    assert np.abs(mixed - alone).max() > 0.1


@pytest.mark.slow
def test_a_silent_worker_trains_alone_and_its_nan_does_not_spread():
    params, gradients = numbers(5), numbers(4, 5, seed=1)
    links = links_among(jnp.arange(WORKERS) != 1)
    mixed, _ = train(over_ring(optax.adam(0.1)), params, gradients, links=links)
    alone, _ = train(optax.adam(0.1), params, gradients)
    np.testing.assert_allclose(mixed[1], alone[1], rtol=0, atol=1e-6)
    spoilt = gradients.copy()
    spoilt[1, 0] = np.nan
    broken, _ = train(over_ring(optax.adam(0.1)), params, spoilt, links=links)
    np.testing.assert_array_equal(np.delete(broken, 1, axis=0), np.delete(mixed, 1, axis=0))


def test_half_precision_parameters_are_mixed_in_single():
    params, gradients = numbers(50, dtype=jnp.bfloat16), numbers(1, 50, seed=1, dtype=jnp.bfloat16)
    tx = over_ring(optax.sgd(0.5))
    half, _ = train(tx, params, gradients)
    single, _ = train(tx, *(x.astype(np.float32) for x in (params, gradients)))
    half, single = np.asarray(half), np.asarray(single)
    change = (single[:, 0] - params.astype(np.float32)).astype(jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half[:, 0], params + change)


def test_one_worker_is_the_inner_optimizer():
    params, gradients = numbers(5)[:1], numbers(3, 5, seed=1)[:1]
    tx = gossip(optax.adam(0.1), ring(1), axis_name="workers")
    np.testing.assert_allclose(
        train(tx, params, gradients)[0], train(optax.adam(0.1), params, gradients)[0], rtol=0, atol=1e-6
    )


def test_the_inner_optimizer_and_the_mixing_get_what_gossip_got():
    seen = {}

    def update(updates, state, params=None, **extra_args):
        del params
        seen["inner"] = extra_args
        return updates, state

    def mixing(tree, topology, axis_name, *, step: int | jax.Array = 0, links=None):
        seen["mixing"] = topology.size, axis_name, step.dtype, links
        return tree

    tx = over_ring(optax.GradientTransformationExtraArgs(optax.init_empty_state, update), mixing=mixing)
    links = links_among(jnp.ones(WORKERS, bool))
    train(tx, numbers(2), numbers(1, 2), links=links, value=3.0)
    assert seen["inner"] == {"links": links, "value": 3.0}
    assert seen["mixing"] == (WORKERS, "workers", jnp.int32, links)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("backend", ["pmap", "shard_map"])
def test_simulation_and_devices_give_the_same_numbers(backend):
    tx = over_ring(optax.adam(0.1), mixing=chebyshev_mix(2), every=2)

    def one_worker(params, gradients):
        def step(carry, gradient):
            params, state = carry
            updates, state = tx.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, state), _ = jax.lax.scan(step, (params, tx.init(params)), gradients)
        return params, state.count

    run = functools.partial(optkit.on_workers, one_worker, axis_name="workers", out_axes=(0, None))
    arguments = numbers(5), numbers(4, 5, seed=1)
    on_devices, simulated = run(backend=backend)(*arguments), run(backend="vmap")(*arguments)
    np.testing.assert_allclose(on_devices[0], simulated[0], rtol=0, atol=1e-14)
    assert on_devices[1] == simulated[1] == 4


@pytest.mark.parametrize("every", [0, 2.5])
def test_every_is_a_count(every):
    with pytest.raises(ValueError, match=f"every must be a positive integer, got {every}"):
        over_ring(optax.sgd(0.1), every=every)


def test_parameters_are_needed():
    tx = gossip(optax.sgd(0.1), complete(1), axis_name="workers")
    with pytest.raises(ValueError, match="gossip needs the parameters: call update"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))


def test_another_number_of_workers_is_refused():
    with pytest.raises(ValueError, match="the topology joins 3 workers, but the axis 'workers' has 4"):
        train(gossip(optax.sgd(0.1), ring(3), axis_name="workers"), numbers(2), numbers(1, 2))


@pytest.mark.parametrize(
    ("argument", "value", "allowed"),
    [
        ("b1", 1.0, r"\[0, 1\)"),
        ("b2", -0.1, r"\[0, 1\)"),
        ("eps", -1e-8, r"\[0, inf\]"),
        ("weight_decay", -1.0, r"\[0, inf\]"),
    ],
)
def test_ranges_of_dadam(argument, value, allowed):
    with pytest.raises(ValueError, match=f"{argument} must be in {allowed}, got {value}"):
        dadam(0.1, ring(4), axis_name="workers", **{argument: value})


def test_dadam_decays_what_the_mask_says():
    params = {"w": np.ones((WORKERS, 2), np.float32), "b": np.ones((WORKERS, 2), np.float32)}
    tx = dadam(0.1, ring(WORKERS), weight_decay=0.5, mask={"w": True, "b": False}, axis_name="workers")
    trajectory, _ = train(tx, params, jax.tree.map(lambda x: np.zeros_like(x)[:, None], params))
    np.testing.assert_allclose(trajectory["w"], 0.9, atol=1e-6)
    np.testing.assert_array_equal(trajectory["b"], 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("topology", [ring(WORKERS), one_peer_exponential(WORKERS)], ids=["ring", "one_peer"])
def test_the_period_may_be_an_array(topology):
    params, gradients = numbers(3), numbers(6, 3, seed=1)

    def last(every):
        tx = gossip(optax.sgd(0.1), topology, axis_name="workers", every=every)
        return train(tx, params, gradients)[0]

    expected = last(3)
    np.testing.assert_allclose(jax.jit(last)(jnp.int32(3)), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(last)(jnp.float32(3)), expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"every must be a positive integer, got 3\.0"):
        last(3.0)
