"""What DADAO in rounds promises: the recorded runs, the simulator's rules, the common optimum, and few messages."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_files import assert_replays, replays
from promises import assert_all_workers_end_at, assert_needs_parameters
from worker_runs import quadratics, train

import optkit
from optkit.decentralized import DadaoEvents, GossipRates, dadao, dadao_constants, dadao_events, uniform_rates
from optkit.decentralized._dadao import Variables, count_visits, draw, jump, make_rounds
from optkit.decentralized._dadao_flow import make_change
from optkit.decentralized.topology import complete, ring, star

WORKERS = 4
RATES = uniform_rates(ring(WORKERS))
over_ring = functools.partial(dadao, rates=RATES, axis_name="workers")


@pytest.mark.slow
@replays("dadao_in_rounds")
def test_golden(recording):
    hyperparams, draws = recording.hyperparams, recording.arrays
    hyperparams.word("graph", ("ring",))  # What the graph's name says, its edges do.
    rates = GossipRates(hyperparams["n_workers"], draws["edges"], draws["rates"])
    assert (rates.chi1, rates.chi2) == pytest.approx((hyperparams["chi1"], hyperparams["chi2"]), rel=1e-12)
    constants = dadao_constants(hyperparams["mu"], hyperparams["L"], rates.chi1, rates.chi2)
    matchings = [np.flatnonzero(draws["matching"] == group) for group in range(draws["matching"].max() + 1)]
    rest_of_round = make_rounds(constants, rates, matchings, "workers")
    # Each edge can be active when its own matching has its turn.
    active = draws["draws.active"]
    assert active.shape[1] == hyperparams["slots"]
    active = active.reshape(len(active), -1, len(matchings), active.shape[-1])
    own_turn = np.arange(len(matchings))[:, None] == draws["matching"]
    assert not np.any(active & ~own_turn)

    def worker(params, gradients):
        def step(variables, inputs):
            gradient, wait, active = inputs
            variables = rest_of_round(jump(variables, gradient, constants), wait, active)
            return variables, variables.x

        zeros = jax.tree.map(jnp.zeros_like, params)
        inputs = gradients, jnp.asarray(draws["draws.wait"]), jnp.asarray(active.any(axis=2))
        return jax.lax.scan(step, Variables(params, *[zeros] * 5), inputs)[1]

    over_workers = jax.jit(jax.vmap(worker, in_axes=(0, 1), out_axes=1, axis_name="workers"))
    params, gradients = (jax.tree.map(jnp.asarray, recording.tree(group)) for group in ("params0", "grads"))
    assert_replays(recording, over_workers(params, gradients))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("wait", ["exponential", "one"])
def test_all_workers_reach_the_common_optimum(wait):
    losses = quadratics(WORKERS)
    params, state = train(over_ring(0.5, 1.0, wait=wait), losses, 600)
    assert_all_workers_end_at(losses.minimum(), params)
    # Where nothing moves any more, Z is the opposite of a worker's own gradient, and Y lacks nu * X of it.
    np.testing.assert_allclose(state.z[-1], -losses.gradients(params[-1]), rtol=0, atol=1e-8)
    np.testing.assert_allclose(state.y[-1], losses.gradients(params[-1]) - 0.25 * params[-1], rtol=0, atol=1e-8)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_one_worker_without_neighbours_minimizes_its_own_function():
    losses = quadratics(1)
    params, _ = train(dadao(0.5, 1.0, uniform_rates(ring(1)), axis_name="workers"), losses, 600)
    assert_all_workers_end_at(losses.minimum(), params)


def normals(count):
    """Variables of all workers, three numbers each."""
    return Variables(*jnp.asarray(np.random.default_rng(0).normal(size=(6, count, 3))))


def rest_of_round(constants, variables, wait, active):
    """What follows the jump, on all workers of the ring, where the given edges are active, visits first."""
    rest = make_rounds(constants, RATES, RATES.matchings, "workers")
    return jax.vmap(rest, in_axes=(0, None, None), axis_name="workers")(variables, wait, active)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_round_is_that_of_the_simulator_with_all_gradients_at_once():
    losses, constants, slots = quadratics(WORKERS), dadao_constants(0.5, 1.0, RATES.chi1, RATES.chi2), 4
    simulator = dadao_events(lambda x, i, _: losses.hessian[i] @ x - losses.linear[i], RATES, 0.5, 1.0)
    start, waits, events, late = normals(WORKERS).x, [], [], 0.0
    variables = Variables(start, *[jnp.zeros_like(start)] * 5)
    jump_on_all = jax.jit(lambda all_of: jax.vmap(jump, (0, 0, None))(all_of, losses.gradients(all_of.x), constants))
    draw_round = jax.jit(lambda key: draw(key, RATES, slots // 2, "exponential", jnp.float64))
    rest = jax.jit(functools.partial(rest_of_round, constants))
    for key in jax.random.split(jax.random.key(0), 3):
        wait, active = draw_round(key)
        variables = jump_on_all(variables)
        variables = rest(variables, wait, active)
        for worker in range(WORKERS):
            events.append((worker, worker))
            waits.append(late)
            late = 0.0
        for visit in np.asarray(active):
            for matching in RATES.matchings:
                late += float(wait) / slots
                for edge in matching[visit[matching]]:
                    events.append(tuple(RATES.edges[edge]))
                    waits.append(late)
                    late = 0.0
    workers = np.asarray(events)
    happened = DadaoEvents(
        np.asarray(waits), workers[:, 0] == workers[:, 1], workers, jax.random.split(jax.random.key(0), len(events))
    )
    state = jax.jit(simulator.run)(simulator.init(start), happened)
    params = jax.jit(simulator.params)(state._replace(elapsed=np.asarray(state.elapsed) + late))
    np.testing.assert_allclose(params, variables.x, rtol=1e-10)
    assert np.sum(~happened.is_gradient) > 3


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_where_no_pair_exchanges_all_that_happens_is_the_flow():
    variables, constants = normals(WORKERS), dadao_constants(0.5, 1.0, RATES.chi1, RATES.chi2)
    silent = jax.jit(functools.partial(rest_of_round, constants))(variables, 1.7, np.zeros((2, WORKERS), bool))
    by = jax.jit(make_change(constants))(1.7)
    expected = np.stack(variables) + np.tensordot(by, np.stack(variables), 1)
    np.testing.assert_allclose(np.stack(silent), expected, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_the_flow_keeps_what_it_must():
    # X and X~ approach each other, at equal rates; so do Z and Z~, at theirs.
    constants = dadao_constants(0.5, 20.0, RATES.chi1, RATES.chi2)
    kept = np.array([[1, 1, 0, 0, 0, 0], [0, 0, 0, 0, constants.alpha_tilde, constants.alpha]])
    change = jax.jit(make_change(constants))
    for time in (0.1, 1.0, 30.0):
        np.testing.assert_allclose(kept @ change(time), 0, rtol=0, atol=1e-14)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_rounds_keep_the_sums_over_workers_of_what_is_exchanged():
    _, state = train(over_ring(0.5, 1.0), quadratics(WORKERS), 20)
    for z in (state.z, state.z_tilde):
        np.testing.assert_allclose(np.asarray(z).sum(axis=1), 0, rtol=0, atol=1e-10)
        assert np.abs(z).max() > 0.1


@pytest.mark.slow
def test_the_nan_of_a_worker_reaches_only_those_who_exchange_with_it():
    constants = dadao_constants(0.5, 1.0, RATES.chi1, RATES.chi2)
    spoilt = np.arange(WORKERS)[:, None] == 1
    variables = jax.tree.map(lambda x: np.where(spoilt, np.float32(np.nan), x), normals(WORKERS))
    (pair,) = [index for index, edge in enumerate(RATES.edges.tolist()) if edge == [2, 3]]
    active = np.zeros((1, WORKERS), bool)
    active[0, pair] = True
    rest = jax.jit(functools.partial(rest_of_round, constants))
    after, apart = (rest(variables, 1.0, pairs) for pairs in (active, np.zeros_like(active)))
    after, apart = np.asarray(after.z), np.asarray(apart.z)
    np.testing.assert_array_equal(np.isfinite(after).all(axis=1), [True, False, True, True])
    np.testing.assert_array_equal(np.any(after != apart, axis=1), [False, True, True, True])


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_pairs_exchange_at_their_rates_and_all_workers_wait_as_long():
    rates = GossipRates(3, np.array([[0, 1], [1, 2]]), np.array([1.0, 4.0]))
    many = jax.random.split(jax.random.key(0), 4000)
    sample = jax.jit(jax.vmap(draw, (0, None, None, None, None)), static_argnums=(1, 2, 3, 4))
    time, active = sample(many, rates, 16, "exponential", "float64")
    for expected, found in ((1.0, time), (rates.rates, active.sum(axis=1))):
        error = np.std(found, axis=0) / len(many) ** 0.5
        assert np.all(np.abs(np.mean(found, axis=0) - expected) < 5 * error)
    np.testing.assert_array_equal(sample(many, rates, 16, "one", "float64")[0], 1)


@pytest.mark.parametrize(("wait", "most"), [("exponential", 1 / 4), ("one", 1 / 2)])
def test_by_default_no_pair_is_likely_to_exchange_each_time(wait, most):
    for rates in (RATES, uniform_rates(star(8)), uniform_rates(complete(5))):
        visits = count_visits(rates, None, wait)
        assert rates.rates.max() / visits <= most * (1 + 1e-9)


@pytest.mark.slow
def test_only_times_at_which_a_pair_exchanges_send_and_then_one_message():
    size, slots = 64, 8
    tx = over_ring(0.5, 1.0, slots=slots)
    found = optkit.cost(tx, jax.ShapeDtypeStruct((size,), jnp.bfloat16), axis_name="workers", axis_size=WORKERS)
    assert (found.sent, found.sent_when_taken) == ({}, {"collective-permute": 4 * size * slots})
    assert found.state_bytes_per_device == 5 * 4 * size + 8


@functools.cache
def four_steps(backend):
    tx, losses = over_ring(0.5, 1.0), quadratics(WORKERS)

    def worker(hessian, linear):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(hessian @ params - linear, state, params)
            return (optax.apply_updates(params, updates), state), None

        params = jnp.zeros_like(linear)
        return jax.lax.scan(step, (params, tx.init(params)), length=4)[0]

    return optkit.on_workers(worker, axis_name="workers", backend=backend)(*losses)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("backend", ["pmap", "shard_map"])
def test_devices_give_the_numbers_of_the_simulation(backend):
    chex.assert_trees_all_close(four_steps(backend), four_steps("vmap"), rtol=0, atol=1e-13)


@pytest.mark.slow
def test_key_and_so_the_draws_are_equal_on_all_workers():
    axes = optkit.worker_axes(over_ring(0.5, 1.0), jnp.zeros((WORKERS, 2)), axis_name="workers")
    assert axes == (0, 0, 0, 0, 0, None)


@pytest.mark.usefixtures("x64")
def test_mu_and_smoothness_may_be_arrays():
    def change(mu, smoothness):
        return make_change(dadao_constants(mu, smoothness, 0.5, 0.5))(jnp.asarray(0.7))

    np.testing.assert_allclose(jax.jit(change)(0.5, 20.0), change(0.5, 20.0), rtol=1e-10, atol=1e-15)


def test_parameters_are_needed():
    assert_needs_parameters(over_ring(0.5, 1.0), "dadao")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mu": 0.0}, r"mu must be in \(0, inf\), got 0.0"),
        ({"L": 0.4}, r"L must be in \[0.5, inf\), got 0.4"),
        ({"slots": 0}, "slots must be a positive integer, got 0"),
        ({"slots": 3}, "slots must be a multiple of 2, the number of matchings of the edges, got 3"),
        ({"wait": "two"}, "wait must be 'exponential' or 'one', got 'two'"),
        ({"axis_name": ("a", "b")}, "axis_name must be the name of one axis"),
    ],
)
def test_arguments_out_of_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        over_ring(**{"mu": 0.5, "L": 1.0, **arguments})


def test_slots_that_are_too_few_for_the_rates_are_refused_with_how_many_there_must_be():
    often = dataclasses.replace(RATES, rates=3.5 * RATES.rates / RATES.rates.max())
    with pytest.raises(ValueError, match=r"slots must be at least 8, 4 for each of 2 matchings, .* 3.5, got 6"):
        over_ring(0.5, 1.0, rates=often, slots=6)


def test_too_rare_exchanges_are_refused():
    rare = dataclasses.replace(RATES, rates=RATES.rates / 4)
    with pytest.raises(ValueError, match=r"chi1 \* chi2 must be at most 1/2, got 8"):
        over_ring(0.5, 1.0, rates=rare)


def test_a_topology_in_place_of_rates_is_refused():
    with pytest.raises(TypeError, match=r"rates must be GossipRates, for example uniform_rates.*, got Topology"):
        dadao(0.5, 1.0, ring(WORKERS), axis_name="workers")


def test_slots_that_are_injected_are_refused():
    with pytest.raises(TypeError, match="slots"):
        over_ring(0.5, 1.0, slots=jnp.int32(4))


def test_another_number_of_workers_is_refused():
    with pytest.raises(ValueError, match="the rates are those of 4 workers, but the axis 'workers' has 3"):
        train(over_ring(0.5, 1.0), quadratics(3), 1)
