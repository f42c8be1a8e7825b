import itertools

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import optax
import pytest
from draws import normal
from golden_files import assert_replays, replays
from promises import assert_all_workers_end_at, assert_needs_parameters
from trajectories import trajectory
from worker_runs import bytes_sent, quadratics, sgd_of, topology_of, train

from optkit.decentralized import relay_sum
from optkit.decentralized.topology import binary_tree, complete, exponential, from_graph, path, ring, sequence, star
from optkit.testing.golden import replay_workers

WORKERS = {"axis_name": "workers"}
TREES = {"path": path(5), "star": star(5), "binary tree": binary_tree(7)}
on_trees = pytest.mark.parametrize("topology", TREES.values(), ids=TREES.keys())


def distances(topology):
    graph = nx.from_numpy_array(topology.matrices[0] * (1 - np.eye(topology.size)) != 0)
    return np.asarray(nx.floyd_warshall_numpy(graph)).astype(int)


@pytest.mark.slow
@replays("relaysgd")
def test_golden_relaysgd(recording):
    relay_updates = recording.hyperparams.word("kind", {"grad": True, "model": False})
    tx = relay_sum(sgd_of(recording), topology_of(recording), relay_updates=relay_updates, **WORKERS)
    assert_replays(recording, replay_workers(tx, recording))


@pytest.mark.usefixtures("x64")
@on_trees
def test_everybody_counts_once_and_later_by_the_distance(topology):
    size, steps = topology.size, 8
    tx = relay_sum(optax.identity(), topology, relay_updates=True, **WORKERS)
    sent = normal(steps, size)
    got = trajectory(tx, sent, **WORKERS).updates
    delays = np.maximum(distances(topology) - 1, 0)
    for receiver, step in itertools.product(range(size), range(steps)):
        heard = [sent[step - d, j] for j, d in enumerate(delays[receiver]) if step >= d]
        np.testing.assert_allclose(got[step, receiver], sum(heard) / size, atol=1e-14)


@pytest.mark.usefixtures("x64")
@on_trees
def test_all_workers_reach_the_minimum_of_the_mean_loss(topology):
    losses = quadratics(topology.size)
    params, _ = train(relay_sum(optax.sgd(0.1, 0.5), topology, **WORKERS), losses, 600)
    assert_all_workers_end_at(losses.minimum(), params)


@pytest.mark.usefixtures("x64")
def test_all_workers_reach_the_minimum_when_a_third_of_the_messages_are_lost():
    losses = quadratics(5)
    links = np.asarray(np.random.default_rng(0).uniform(size=(1200, 5, 5)) > 1 / 3)
    params, _ = train(relay_sum(optax.sgd(0.1), path(5), **WORKERS), losses, 1200, links=links)
    assert_all_workers_end_at(losses.minimum(), params)


def test_what_is_not_heard_may_be_nan():
    tx = relay_sum(optax.identity(), star(4), **WORKERS)
    active = jnp.array([True, True, True, False])
    params = jnp.array([1.0, 2.0, 3.0, jnp.nan])

    def worker(params):
        return tx.update(jnp.zeros_like(params), tx.init(params), params, links=active[:, None] & active)[0]

    updates = jax.jit(jax.vmap(worker, axis_name="workers"))(params)
    np.testing.assert_array_equal(np.isnan(updates), ~active)


@on_trees
def test_it_keeps_as_many_messages_as_a_worker_has_neighbours(topology):
    state = relay_sum(optax.sgd(0.1), topology, **WORKERS).init(jnp.zeros(3))
    assert len(state.received) == topology.messages.max()


@pytest.mark.parametrize(("topology", "rounds"), [(path(8), 2), (binary_tree(8), 3), (star(8), 7)])
def test_it_sends_one_number_a_parameter_and_a_count_in_each_round(topology, rounds):
    assert bytes_sent(relay_sum(optax.sgd(0.1), topology, **WORKERS)) == {"collective-permute": rounds * (64 + 1) * 4}


def test_one_worker_alone_takes_its_own_steps():
    losses = quadratics(1)
    alone, _ = train(relay_sum(optax.sgd(0.1), complete(1), **WORKERS), losses, 5)
    expected, _ = train(optax.sgd(0.1), losses, 5)
    np.testing.assert_allclose(alone, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        (ring(4), "got 4 workers joined by 4 edges"),
        (exponential(4), "got 4 workers joined by"),
        (sequence(path(4), star(4)), "joined by 3 edges in the first of 2 steps"),
        (from_graph(nx.complete_graph(4)), "joined by 6 edges"),
    ],
)
def test_topologies_that_are_no_tree_are_refused(topology, message):
    with pytest.raises(ValueError, match=f"relay_sum needs a topology that is a tree, .* {message}"):
        relay_sum(optax.sgd(0.1), topology, **WORKERS)


def test_another_number_of_workers_is_an_error():
    with pytest.raises(ValueError, match="joins 4 workers, but the axis 'workers' has 5"):
        train(relay_sum(optax.sgd(0.1), path(4), **WORKERS), quadratics(5), 1)


@pytest.mark.parametrize("relay_updates", [True, False])
def test_missing_parameters_are_named(relay_updates):
    tx = relay_sum(optax.sgd(0.1), path(4), relay_updates=relay_updates, **WORKERS)
    assert_needs_parameters(tx, "relay_sum")
