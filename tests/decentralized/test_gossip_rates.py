import networkx as nx
import numpy as np
import pytest

import optkit
from optkit.decentralized import GossipRates, optimal_rates, uniform_rates

BARBELL = optkit.topology.from_graph(nx.barbell_graph(4, 0))


def product(rates):
    return rates.chi1 * rates.chi2


@pytest.mark.parametrize(
    ("topology", "total"),
    [
        (optkit.topology.ring(8), 9.777),
        (optkit.topology.star(6), 5.0),
        (BARBELL, 21.842),
        (optkit.topology.grid(9), 10.0995),
    ],
)
def test_uniform_rates_are_the_smallest_that_satisfy_the_condition(topology, total):
    rates = uniform_rates(topology)
    assert np.ptp(rates.rates) == 0
    assert product(rates) == pytest.approx(0.5, rel=1e-12)
    assert rates.total == pytest.approx(total, abs=1e-3)


def test_constants_are_those_of_the_graph():
    laplacian = nx.laplacian_matrix(nx.star_graph(4)).toarray()
    rates = GossipRates(5, np.array([[0, 1], [0, 2], [0, 3], [0, 4]]), np.ones(4))
    assert rates.chi1 == pytest.approx(1 / np.linalg.eigvalsh(laplacian)[1])
    assert rates.chi2 == pytest.approx(0.5)  # each edge of a tree is a resistor alone
    assert rates.total == 4


def test_optimal_rates_are_those_of_the_semidefinite_program():
    rates = optimal_rates(BARBELL, steps=500)
    assert rates.total == pytest.approx(13.205, rel=1e-2)
    assert product(rates) == pytest.approx(0.5, rel=1e-12)
    bridge = np.flatnonzero(np.all(rates.edges == [3, 4], axis=1))
    assert np.argmax(rates.rates) == bridge


def test_optimal_rates_never_ask_for_more_than_uniform_ones():
    for topology in (
        optkit.topology.ring(5),
        optkit.topology.path(4),
        optkit.topology.complete(4),
        optkit.topology.erdos_renyi(8, 0.4, seed=1),
    ):
        assert optimal_rates(topology, steps=20).total <= uniform_rates(topology).total


def test_one_worker_and_two_are_no_special_cases():
    alone, two = optimal_rates(optkit.topology.ring(1)), optimal_rates(optkit.topology.ring(2))
    assert (alone.total, alone.chi1, alone.chi2) == (0.0, 0.0, 0.0)
    assert two.edges.tolist() == [[0, 1]]
    assert product(two) == pytest.approx(0.5, rel=1e-12)


def test_a_periodic_topology_gives_the_edges_of_all_steps():
    topology = optkit.topology.sequence(optkit.topology.ring(4), optkit.topology.hypercube(4), optkit.topology.star(4))
    assert uniform_rates(topology).edges.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]


def test_messages_without_answer_are_refused():
    with pytest.raises(ValueError, match="worker 0 hears worker 3 and is not heard by it"):
        uniform_rates(optkit.topology.exponential(5))


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="steps must be a positive integer, got 0"):
        optimal_rates(optkit.topology.ring(4), steps=0)


@pytest.mark.parametrize(
    ("size", "edges", "rates", "message"),
    [
        (0, np.zeros((0, 2)), [], "size must be a positive integer"),
        (3, [[0, 1], [1, 2]], [1.0], r"edges must be \(edges, 2\) and rates \(edges,\) in shape, got \(2, 2\), \(1,\)"),
        (3, [[0, 1], [1, 3]], [1.0, 1.0], "an edge must join two of the workers 0 to 2"),
        (3, [[0, 1], [1, 1]], [1.0, 1.0], "an edge must join two of the workers 0 to 2"),
        (3, [[0, 1], [1, 2]], [1.0, 0.0], "rates must be positive and finite"),
        (3, [[0, 1], [1, 2]], [1.0, np.nan], "rates must be positive and finite"),
        (4, [[0, 1], [2, 3]], [1.0, 1.0], "do not connect all workers"),
    ],
)
def test_rates_that_cannot_be_are_refused(size, edges, rates, message):
    with pytest.raises(ValueError, match=message):
        GossipRates(size, np.asarray(edges), np.asarray(rates))


@pytest.mark.parametrize(
    ("topology", "matchings"),
    [
        (optkit.topology.ring(1), 0),
        (optkit.topology.ring(2), 1),
        (optkit.topology.ring(8), 2),
        (optkit.topology.ring(7), 3),
        (optkit.topology.hypercube(16), 4),
        (optkit.topology.star(8), 7),
        (optkit.topology.binary_tree(15), 3),
        (optkit.topology.torus(16), 4),
        (optkit.topology.complete(10), 9),
        (optkit.topology.complete(7), 7),
        (BARBELL, 4),
    ],
)
def test_edges_fall_into_few_matchings_in_which_no_worker_occurs_twice(topology, matchings):
    rates = uniform_rates(topology)
    assert len(rates.matchings) == matchings
    assert sorted(index for matching in rates.matchings for index in matching) == list(range(len(rates.edges)))
    for matching in rates.matchings:
        assert len(np.unique(rates.edges[matching])) == 2 * len(matching)


def test_two_edges_between_the_same_workers_are_in_two_matchings():
    rates = GossipRates(2, np.array([[0, 1], [1, 0]]), np.array([1.0, 2.0]))
    assert sorted(matching.tolist() for matching in rates.matchings) == [[0], [1]]
