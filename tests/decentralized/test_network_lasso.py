import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import pytest
from golden_files import assert_replays, replays

from optkit.decentralized import network_lasso, network_lasso_start, network_lasso_sweep


def least_squares(matrices, targets):
    """The proximal map of |B_i x - c_i|^2 / 2."""

    def one(matrix, target, point, step):
        hessian = matrix.T @ matrix + jnp.eye(matrix.shape[1]) / step
        return jnp.linalg.solve(hessian, matrix.T @ target + point / step)

    return lambda points, steps: {"x": jax.vmap(one)(matrices, targets, points["x"], steps)}


def graph_of(recording):
    graph = nx.empty_graph(len(recording.arrays["params0.x"]))
    edges = zip(recording.arrays["edges"].tolist(), recording.arrays["edge_weights"].tolist(), strict=True)
    graph.add_weighted_edges_from((a, b, weight) for (a, b), weight in edges)
    return graph


def problem_of(recording):
    proximal_map = least_squares(recording.arrays["problem.B"], recording.arrays["problem.c"])
    return proximal_map, recording.tree("params0"), graph_of(recording)


def objective(recording, x, penalty):
    graph, arrays = graph_of(recording), recording.arrays
    losses = np.sum((np.einsum("nij,nj->ni", arrays["problem.B"], x) - arrays["problem.c"]) ** 2) / 2
    return losses + penalty * sum(w * np.linalg.norm(x[a] - x[b]) for a, b, w in graph.edges(data="weight"))


@pytest.mark.slow
@replays("network_lasso")
def test_golden_network_lasso(recording):
    proximal_map, params, graph = problem_of(recording)
    penalty, rho = recording.hyperparams["lam"], recording.hyperparams["rho"]

    def sweep(state, _):
        state = network_lasso_sweep(proximal_map, state, graph, penalty, rho)
        return state, state.params

    length = len(recording.arrays["params.x"])
    run = jax.jit(lambda state: jax.lax.scan(sweep, state, length=length)[1])
    assert_replays(recording, run(network_lasso_start(params, graph)))


@replays("network_lasso")
def test_it_reaches_the_optimum_of_a_conic_solver_as_golden(recording):
    penalty, rho = recording.hyperparams["lam"], recording.hyperparams["rho"]
    x = np.asarray(network_lasso(*problem_of(recording), penalty, rho, sweeps=4000)["x"])
    np.testing.assert_allclose(x, recording.arrays["x_opt"], atol=1e-5)
    np.testing.assert_allclose(objective(recording, x, penalty), recording.arrays["objective_opt"], rtol=1e-7)


DATA = np.array([[0.0], [1.0], [2.0], [10.0], [11.0]])
PATH = nx.path_graph(5)


def to_data(points, steps):
    return jax.tree.map(lambda point, data: (point + steps[:, None] * data) / (1 + steps[:, None]), points, DATA)


@pytest.mark.usefixtures("x64")
def test_without_penalty_each_node_is_alone():
    np.testing.assert_allclose(network_lasso(to_data, jnp.zeros((5, 1)), PATH, 0.0, sweeps=100), DATA, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_a_large_penalty_makes_all_equal_to_the_mean():
    x = network_lasso(to_data, jnp.zeros((5, 1)), PATH, 100.0, sweeps=500)
    np.testing.assert_allclose(x, DATA.mean() * np.ones((5, 1)), atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_between_them_neighbours_join_in_clusters():
    x = network_lasso(to_data, jnp.zeros((5, 1)), PATH, 2.0, sweeps=1000)[:, 0]
    # Clusters lie at their means, and a neighbour on one side draws by the penalty over their size: by 2 / 2, from the
    # right for the first one, from the left for the last one; the node between them is drawn from both sides alike.
    np.testing.assert_allclose(x, [0.5 + 1, 0.5 + 1, 2, 10.5 - 1, 10.5 - 1], atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_weights_of_edges_multiply_the_penalty():
    graph = nx.path_graph(5)
    nx.set_edge_attributes(graph, 2.0, "weight")
    runs = (network_lasso(to_data, DATA, *arguments, sweeps=20) for arguments in ((PATH, 1.0), (graph, 0.5)))
    np.testing.assert_allclose(*runs, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_distances_are_over_all_leaves():
    graph = nx.path_graph(2)
    data = jnp.array([[0.0, 0.0], [3.0, 4.0]])

    def proximal_map(points, steps):
        return {
            "a": (points["a"] + steps * data[:, 0]) / (1 + steps),
            "b": (points["b"] + steps[:, None] * data[:, 1:]) / (1 + steps[:, None]),
        }

    x = network_lasso(proximal_map, {"a": jnp.zeros(2), "b": jnp.zeros((2, 1))}, graph, 1.0, sweeps=300)
    # Both move by one along the line between them, of direction (3, 4) / 5.
    np.testing.assert_allclose(x["a"], [0.6, 2.4], atol=1e-6)
    np.testing.assert_allclose(x["b"][:, 0], [0.8, 3.2], atol=1e-6)


def test_bfloat16_parameters_are_computed_in_float32():
    params = jnp.zeros((5, 1), jnp.bfloat16)
    assert network_lasso_start(params, PATH).copies.dtype == jnp.float32
    x = network_lasso(to_data, params, PATH, 1.0, sweeps=50)
    assert x.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        x.astype(float), network_lasso(to_data, jnp.zeros((5, 1)), PATH, 1.0, sweeps=50), rtol=1e-2, atol=1e-2
    )


def test_wrong_arguments_are_named():
    params = jnp.zeros((5, 1))
    with pytest.raises(ValueError, match=r"penalty must be in \[0, inf\], got -1.0"):
        network_lasso(to_data, params, PATH, -1.0)
    with pytest.raises(ValueError, match=r"rho must be in \(0, inf\], got 0.0"):
        network_lasso(to_data, params, PATH, 1.0, 0.0)
    with pytest.raises(ValueError, match="sweeps must be a positive integer, got 0"):
        network_lasso(to_data, params, PATH, 1.0, sweeps=0)
    with pytest.raises(ValueError, match=r"each node must have a neighbour, got \[2\]"):
        network_lasso(to_data, jnp.zeros((3, 1)), nx.Graph({0: [1], 2: []}), 1.0)
    with pytest.raises(ValueError, match=r"leading axis over 5 nodes, got the leaf \['x'\] of shape \(4, 1\)"):
        network_lasso_start({"x": jnp.zeros((4, 1))}, PATH)
