"""What topologies promise: the published matrices, sums of one, all eigenvalues, and few permutations."""

import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest
from golden_files import replays

from optkit.decentralized import (
    GossipRates,
    accelerated_mix,
    chebyshev_mix,
    metropolis_walk,
    network_lasso_start,
    repeated_mix,
    uniform_rates,
)
from optkit.decentralized.topology import (
    Topology,
    _graphs,
    binary_tree,
    circulant,
    complete,
    erdos_renyi,
    exponential,
    from_graph,
    grid,
    hypercube,
    max_degree_weights,
    metropolis_weights,
    one_peer_exponential,
    path,
    plot,
    random_matchings,
    ring,
    sequence,
    star,
    symmetric_exponential,
    torus,
    uniform_weights,
)

RECORDED = {
    "bluefog_exp2": exponential,
    "bluefog_symexp4": symmetric_exponential,
    "bluefog_grid": grid,
    "bluefog_star": star,
    "bluefog_ring": ring,
    "bluefog_full": complete,
    "bluefog_ring_right": lambda size: circulant(size, [1]),
    "bluefog_ring_left": lambda size: circulant(size, [-1]),
    "epfl_ring": ring,
    "epfl_torus": torus,
    "epfl_uniring": lambda size: circulant(size, [-1]),
    "mh_chain": path,
    "mh_path": path,
    "mh_star": star,
    "mh_ring": ring,
    "mh_hypercube": hypercube,
    "mh_torus": torus,
    "mh_grid": grid,
    "onepeer_exp2": one_peer_exponential,
}
ALL = {
    "ring": ring(8),
    "ring of one": ring(1),
    "ring of two": ring(2),
    "path": path(5),
    "star": star(6),
    "grid": grid(6),
    "torus": torus(12),
    "thin torus": torus(6),
    "hypercube": hypercube(8),
    "complete": complete(4),
    "binary tree": binary_tree(7),
    "exponential": exponential(9),
    "symmetric exponential": symmetric_exponential(12),
    "one peer": one_peer_exponential(12),
    "directed circulant": circulant(7, [1, 3]),
    "Erdos-Renyi": erdos_renyi(8, 0.4, seed=1),
    "matchings": random_matchings(7, 9, seed=0),
    "sequence": sequence(ring(8), hypercube(8)),
    "karate club": from_graph(nx.karate_club_graph()),
    "maximal degree": from_graph(nx.wheel_graph(6), max_degree_weights),
    "uniform": from_graph(nx.petersen_graph(), uniform_weights),
    "lazy": path(4).lazy(),
    "directed, not regular": Topology(
        np.array([[[0.5, 0.5, 0, 0], [0.5, 0.25, 0.25, 0], [0, 0, 0.5, 0.5], [0, 0.25, 0.25, 0.5]]])
    ),
}
of_all = pytest.mark.parametrize("topology", ALL.values(), ids=ALL.keys())


def is_proper_torus(size):
    return _graphs._sides(size)[0] >= 3


@replays("topology")
def test_topology_golden(recording):
    compared = 0
    for name, expected in recording.arrays.items():
        group, _, key = name.partition(".")
        kind, _, size = key.rpartition("_")
        if group != "mixing" or (kind == "epfl_torus" and not is_proper_torus(int(size))):
            continue
        topology = RECORDED[kind](int(size))
        steps = expected if expected.ndim == 3 else expected[None]
        actual = topology.matrices[np.arange(len(steps)) % topology.period]
        np.testing.assert_allclose(actual, steps, rtol=0, atol=recording.meta["rtol"], err_msg=name)
        if f"gap.{key}" in recording.arrays:
            np.testing.assert_allclose(topology.spectral_gap, recording.arrays[f"gap.{key}"], atol=1e-12, err_msg=name)
        if f"lambda2.{key}" in recording.arrays:
            largest = np.sort(np.abs(np.linalg.eigvals(topology.matrices[0])))[::-1]
            np.testing.assert_allclose(largest[1], recording.arrays[f"lambda2.{key}"], atol=1e-7, err_msg=name)
        compared += 1
    assert compared


@of_all
def test_rows_and_columns_sum_to_one(topology):
    np.testing.assert_allclose(topology.matrices.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(topology.matrices.sum(axis=2), 1, atol=1e-12)


@of_all
def test_the_rounds_carry_every_message_once(topology):
    for matrix, rounds in zip(topology.matrices, topology.rounds, strict=True):
        carried = np.diag(np.diag(matrix))
        for permutation, weights in rounds:
            senders, receivers = map(list, zip(*permutation, strict=True))
            assert sorted(senders) == sorted(receivers) == list(range(topology.size))
            carried[receivers, senders] += weights
        np.testing.assert_allclose(carried, matrix, atol=1e-15)


@of_all
def test_there_are_as_many_rounds_as_the_most_messages_of_a_worker(topology):
    received = np.sum(topology.matrices * (1 - np.eye(topology.size)) != 0, axis=2)
    most = np.maximum(topology.messages, received).max(axis=1)
    assert [len(rounds) for rounds in topology.rounds] == most.tolist()


@of_all
def test_workers_agree_in_the_end(topology):
    values = np.random.default_rng(0).normal(size=topology.size)
    mean, distance = values.mean(), np.linalg.norm(values - values.mean())
    for matrix in topology.matrices:
        values = matrix @ values
    np.testing.assert_allclose(values.mean(), mean, atol=1e-12)
    assert np.linalg.norm(values - mean) <= topology.contraction * distance + 1e-12


@pytest.mark.parametrize(("size", "expected"), [(16, 0.9493), (32, 0.9872)])
def test_contraction_of_rings(size, expected):
    assert ring(size).contraction == pytest.approx(expected, abs=5e-5)


def test_negative_eigenvalues_count():
    with pytest.raises(ValueError, match="bipartite and no worker weighs its own value"):
        Topology(np.array([[[0, 0.5, 0, 0.5], [0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5], [0.5, 0, 0.5, 0]]]))
    assert ring(4).smallest_eigenvalue == pytest.approx(-1 / 3)
    assert ring(4).lazy().smallest_eigenvalue == pytest.approx(1 / 3)
    assert sequence(ring(4).lazy(), ring(4)).smallest_eigenvalue == pytest.approx(-1 / 3)


@pytest.mark.parametrize("size", [2, 4, 8, 16])
def test_a_period_of_one_peer_exchanges_gives_the_mean_of_a_power_of_two(size):
    assert one_peer_exponential(size).contraction < 1e-15


def test_a_period_of_one_peer_exchanges_gives_nearly_the_mean_of_others():
    matrices = one_peer_exponential(12).matrices
    assert np.abs(np.linalg.multi_dot(matrices[::-1]) - 1 / 12).max() == pytest.approx(0.0417, abs=1e-3)


def test_neighbours_that_coincide_count_once():
    np.testing.assert_allclose(ring(2).matrices[0], 0.5)
    np.testing.assert_allclose(torus(4).matrices, ring(4).matrices[:, [0, 1, 3, 2]][:, :, [0, 1, 3, 2]], atol=1e-15)


def test_seeds_decide_random_topologies():
    for make in (lambda seed: erdos_renyi(9, 0.4, seed=seed), lambda seed: random_matchings(6, 8, seed=seed)):
        np.testing.assert_array_equal(make(1).matrices, make(1).matrices)
        assert np.any(make(1).matrices != make(2).matrices)


def test_any_graph_of_networkx_with_loops_and_weights_of_its_own():
    graph = nx.Graph([("b", "a", {"weight": 7.0}), ("a", "c"), ("a", "a")])
    np.testing.assert_allclose(metropolis_weights(graph), metropolis_weights(nx.star_graph(2))[[1, 0, 2]][:, [1, 0, 2]])


def test_plot_shows_all_workers():
    plt = pytest.importorskip("matplotlib.pyplot")
    for topology in (ring(5), one_peer_exponential(8), ring(1)):
        figure = plt.figure()
        ax = figure.add_subplot()
        plot(topology, ax)
        assert len(ax.texts) == topology.size
        assert f"{topology.size} workers" in ax.get_title()
        plt.close(figure)


def test_negative_weights_are_named():
    matrix = np.array([[0.8, -0.2, 0.4], [-0.2, 0.7, 0.5], [0.4, 0.5, 0.1]])
    with pytest.warns(UserWarning, match=r"weight of worker 1 at worker 0 is -0\.2"):
        assert Topology(matrix[None]).contraction < 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Topology(np.eye(3)), r"must have shape \(period, workers, workers\), got \(3, 3\)"),
        (lambda: Topology(np.ones((0, 0, 0))), "must have shape"),
        (lambda: Topology(np.full((1, 2, 2), np.nan)), "must be finite numbers"),
        (lambda: Topology(np.array([[[0.5, 0.6], [0.5, 0.4]]])), r"doubly stochastic, but row 0 sums to 1\.1"),
        (lambda: Topology(np.array([[[0.5, 0.5], [0.7, 0.3]]])), r"doubly stochastic, but column 0 sums to 1\.2"),
        (
            lambda: Topology(np.array([np.full((2, 2), 0.5), [[1, 0.5], [0, 0.5]]])),
            r"row 0 sums to 1\.5 in step 1",
        ),
        (lambda: Topology(np.eye(3)[None]), "never bring all workers together"),
        (lambda: from_graph(nx.Graph([(0, 1), (2, 3)])), "graph must be connected, got 2 parts"),
        (lambda: from_graph(nx.Graph()), "graph must be connected, got 0 parts"),
        (lambda: from_graph(nx.star_graph(3), uniform_weights), "must be doubly stochastic, but column"),
        (lambda: hypercube(6), "size must be a power of two for a hypercube, got 6"),
        (lambda: Topology(1j * np.ones((1, 1, 1))), "weights in matrices must be real"),
        (lambda: Topology(np.full((1, 3, 3), 1 / 3, np.float32)), r"row 0 sums to 1\.0000000"),
        (lambda: ring(2.0), r"size must be a positive integer, got 2\.0"),
        (lambda: ring(None), "size must be a positive integer, got None"),
        (lambda: star("4"), "size must be a positive integer, got '4'"),
        (lambda: complete(jnp.ones(())), "size must be a positive integer"),
        (lambda: grid(4.0), r"size must be a positive integer, got 4\.0"),
        (lambda: circulant(4, [1.5]), r"offsets must be an integer .* got 1\.5"),
        (lambda: symmetric_exponential(8, 2.0), r"base must be a positive integer, got 2\.0"),
        (lambda: erdos_renyi(8, 0.5, seed=0.5), r"seed must be an integer of at least 0, got 0\.5"),
        (lambda: random_matchings(8, 4.0, seed=0), r"period must be a positive integer, got 4\.0"),
        (lambda: random_matchings(8, 4, seed=-1), "seed must be an integer of at least 0, got -1"),
        (
            lambda: from_graph(nx.DiGraph([(0, 1), (1, 0)])),
            r"graph must be undirected, got a DiGraph: use graph\.to_un",
        ),
        (lambda: metropolis_weights(nx.DiGraph([(0, 1)])), "graph must be undirected"),
        (lambda: max_degree_weights(nx.DiGraph([(0, 1)])), "graph must be undirected"),
        (lambda: uniform_weights(nx.DiGraph([(0, 1)])), "graph must be undirected"),
        (lambda: accelerated_mix(2, nx.DiGraph([(0, 1)])), "skeleton must be undirected"),
        (lambda: metropolis_walk(nx.DiGraph([(0, 1)])), "graph must be undirected"),
        (lambda: network_lasso_start(jnp.zeros((2, 1)), nx.DiGraph([(0, 1)])), "graph must be undirected"),
        (lambda: repeated_mix(2.0), r"rounds must be a positive integer, got 2\.0"),
        (lambda: chebyshev_mix(2.0), r"rounds must be a positive integer, got 2\.0"),
        (lambda: ring(0), "size must be a positive integer, got 0"),
        (lambda: torus(-1), "size must be a positive integer, got -1"),
        (lambda: symmetric_exponential(8, 1), r"base must be in \[2, inf\], got 1"),
        (lambda: erdos_renyi(8, 0.0, seed=0), r"probability must be in \(0, 1\], got 0\.0"),
        (lambda: erdos_renyi(40, 0.001, seed=0), "no connected graph of 40 workers in 1000 draws"),
        (lambda: sequence(ring(4), ring(5)), r"one size, got \[4, 5\]"),
        (sequence, r"one size, got \[\]"),
        (lambda: random_matchings(8, 0, seed=0), "period must be a positive integer, got 0"),
        (lambda: random_matchings(8, 1, seed=0), "1 random matchings of 8 workers did not connect them"),
    ],
)
def test_what_is_wrong_is_said(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: from_graph(np.eye(2)), "graph must be an undirected graph of networkx, got ndarray"),
        (lambda: from_graph(nx.path_graph(2), np.eye(2)), r"weights must be a function .*Topology\(matrix\[None\]\)"),
        (lambda: sequence(nx.path_graph(2)), "topologies must be a Topology, such as .* got Graph"),
        (lambda: uniform_rates(nx.path_graph(2)), "topology must be a Topology, such as .* got Graph"),
    ],
)
def test_what_is_no_topology_or_graph_is_said(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_a_topology_owns_what_it_was_checked_with():
    matrices = np.full((1, 4, 4), 0.25)
    topology = Topology(matrices)
    matrices[:] = 0
    np.testing.assert_array_equal(topology.matrices, 0.25)
    with pytest.raises(ValueError, match="read-only"):
        topology.matrices[0, 0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        ring(4).rounds[0][0].weights[0] = 1

    edges, rates = np.array([[0, 1]]), np.ones(1)
    exchanges = GossipRates(2, edges, rates)
    edges[:], rates[:] = 0, 0
    assert (exchanges.edges.tolist(), exchanges.rates.tolist()) == ([[0, 1]], [1.0])
    with pytest.raises(ValueError, match="read-only"):
        exchanges.rates[0] = 2
