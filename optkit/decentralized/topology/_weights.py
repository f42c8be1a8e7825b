"""Mixing matrices of graphs."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from optkit.method import Method

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["max_degree_weights", "metropolis_weights", "uniform_weights"]


def require_undirected(graph: Any, name: str) -> None:
    """Raises an error unless an argument is an undirected graph.

    Args:
        graph: The argument.
        name: The argument's name, for the message.

    Raises:
        TypeError: If it is not a graph of `networkx`.
        ValueError: If it is directed.

    Example:
        >>> import networkx as nx
        >>> require_undirected(nx.path_graph(3), "graph")
    """
    import networkx as nx

    if not isinstance(graph, nx.Graph):
        raise TypeError(f"{name} must be an undirected graph of networkx, got {type(graph).__name__}")
    if graph.is_directed():
        raise ValueError(
            f"{name} must be undirected, got a {type(graph).__name__}: use {name}.to_undirected(), or for messages that"
            " go one way make a Topology from a mixing matrix"
        )


def metropolis_weights(graph: "nx.Graph") -> np.ndarray:
    """Makes Metropolis weights: the weight of an edge depends on the larger degree of its two ends.

    The rule, where i and j are neighbours::

        W_ij = 1 / (1 + max(degree_i, degree_j))
        W_ii = 1 - sum_j W_ij

    Use it when the degrees of the graph differ; each worker needs to know only the degrees of its neighbours.

    Args:
        graph: An undirected graph.

    Returns:
        A symmetric, doubly stochastic matrix.

    Raises:
        ValueError: If the graph is directed.
        TypeError: If `graph` is not a graph of `networkx`.

    Example:
        >>> import networkx as nx
        >>> metropolis_weights(nx.path_graph(3)).round(2).tolist()
        [[0.67, 0.33, 0.0], [0.33, 0.33, 0.33], [0.0, 0.33, 0.67]]
    """
    return metropolis_weights_of(adjacency_of(graph))


def metropolis_weights_of(adjacency: np.ndarray) -> np.ndarray:
    """Returns `metropolis_weights` of an adjacency matrix."""
    degrees = adjacency.sum(axis=1)
    return _with_rest(adjacency / (1 + np.maximum(degrees[:, None], degrees)))


def max_degree_weights(graph: "nx.Graph") -> np.ndarray:
    """Makes equal weights for all edges, which depend on the largest degree of the graph.

    The rule, where i and j are neighbours::

        W_ij = 1 / (1 + largest degree)
        W_ii = 1 - sum_j W_ij

    Use it when all edges should have the same weight. Avoid it when one worker has many more neighbours than the
    others, because the weights of all edges are then small.

    Args:
        graph: An undirected graph.

    Returns:
        A symmetric, doubly stochastic matrix.

    Raises:
        ValueError: If the graph is directed.
        TypeError: If `graph` is not a graph of `networkx`.

    Example:
        >>> import networkx as nx
        >>> max_degree_weights(nx.star_graph(2)).round(2).tolist()
        [[0.33, 0.33, 0.33], [0.33, 0.67, 0.0], [0.33, 0.0, 0.67]]
    """
    adjacency = adjacency_of(graph)
    return _with_rest(adjacency / (1 + adjacency.sum(axis=1).max(initial=0)))


def uniform_weights(graph: "nx.Graph") -> np.ndarray:
    """Gives a worker and its neighbours equal weights.

    The rule, where j is i or a neighbour of i::

        W_ij = 1 / (1 + degree_i)

    Use it when the graph is regular, that is, all workers have equally many neighbours. Avoid it on other graphs,
    because its columns then do not sum to one, and `Topology` refuses it.

    Args:
        graph: An undirected graph.

    Returns:
        A matrix whose rows sum to one. It is doubly stochastic only on regular graphs.

    Raises:
        ValueError: If the graph is directed.
        TypeError: If `graph` is not a graph of `networkx`.

    Example:
        >>> import networkx as nx
        >>> uniform_weights(nx.cycle_graph(3)).round(2).tolist()
        [[0.33, 0.33, 0.33], [0.33, 0.33, 0.33], [0.33, 0.33, 0.33]]
    """
    adjacency = adjacency_of(graph)
    return _with_rest(adjacency / (1 + adjacency.sum(axis=1, keepdims=True)))


def adjacency_of(graph: "nx.Graph") -> np.ndarray:
    """Returns the adjacency matrix of an undirected graph, with nodes in their order, without weights and loops."""
    require_undirected(graph, "graph")
    number = {node: index for index, node in enumerate(graph)}
    return adjacency_of_edges(len(number), ((number[a], number[b]) for a, b in graph.edges()))


def adjacency_of_edges(size: int, edges: Iterable[tuple[int, int]]) -> np.ndarray:
    """Returns the adjacency matrix of edges between workers. Loops do not count, and repeated edges count once."""
    adjacency = np.zeros((size, size))
    for a, b in edges:
        adjacency[a, b] = adjacency[b, a] = a != b
    return adjacency


def _with_rest(weights: np.ndarray) -> np.ndarray:
    """Fills the diagonal so that rows sum to one."""
    return weights + np.diag(1 - weights.sum(axis=1))


METHODS = (
    Method(
        name="topology.metropolis_weights",
        factory=metropolis_weights,
        kind="function",
        summary="Metropolis weights of any graph: an edge has weight 1 / (1 + the larger degree of its two ends).",
        also_known_as=("Metropolis-Hastings weights", "MH weights"),
    ),
    Method(
        name="topology.max_degree_weights",
        factory=max_degree_weights,
        kind="function",
        summary="Mixing weights of any graph: every edge has weight 1 / (1 + the largest degree of the graph).",
        also_known_as=("maximum-degree weights",),
    ),
    Method(
        name="topology.uniform_weights",
        factory=uniform_weights,
        kind="function",
        summary="Mixing weights of a regular graph: a worker and its neighbours have equal weights.",
        also_known_as=("uniform-neighbour weights",),
    ),
)
