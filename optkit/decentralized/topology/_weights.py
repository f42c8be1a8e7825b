"""Mixing matrices of graphs."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from optkit.method import Method

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["max_degree_weights", "metropolis_weights", "uniform_weights"]


def require_undirected(graph: Any, name: str) -> None:
    """Raises unless an argument is a graph whose edges go both ways.

    Args:
        graph: what was given.
        name: the argument's name, for the message.

    Raises:
        TypeError: if it is no graph of `networkx`.
        ValueError: if it is directed.

    Example:
        >>> import networkx as nx
        >>> require_undirected(nx.path_graph(3), "graph")
    """
    import networkx as nx

    if not isinstance(graph, nx.Graph):
        raise TypeError(f"{name} must be an undirected graph of networkx, got {type(graph).__name__}")
    if graph.is_directed():
        raise ValueError(
            f"{name} must be undirected, got a {type(graph).__name__}: take {name}.to_undirected(), or make a Topology"
            " of a mixing matrix for messages that go one way"
        )


def metropolis_weights(graph: "nx.Graph") -> np.ndarray:
    """Gives an edge one over one more than the larger degree of its ends, and nodes the rest.

    Args:
        graph: an undirected graph.

    Returns:
        A symmetric, doubly stochastic matrix.

    Example:
        >>> import networkx as nx
        >>> metropolis_weights(nx.path_graph(3)).round(2).tolist()
        [[0.67, 0.33, 0.0], [0.33, 0.33, 0.33], [0.0, 0.33, 0.67]]
    """
    return metropolis_weights_of(adjacency_of(graph))


def metropolis_weights_of(adjacency: np.ndarray) -> np.ndarray:
    """Gives `metropolis_weights` of an adjacency matrix."""
    degrees = adjacency.sum(axis=1)
    return _with_rest(adjacency / (1 + np.maximum(degrees[:, None], degrees)))


def max_degree_weights(graph: "nx.Graph") -> np.ndarray:
    """Gives every edge one over one more than the graph's largest degree, and nodes the rest.

    Args:
        graph: an undirected graph.

    Returns:
        A symmetric, doubly stochastic matrix.

    Example:
        >>> import networkx as nx
        >>> max_degree_weights(nx.star_graph(2)).round(2).tolist()
        [[0.33, 0.33, 0.33], [0.33, 0.67, 0.0], [0.33, 0.0, 0.67]]
    """
    adjacency = adjacency_of(graph)
    return _with_rest(adjacency / (1 + adjacency.sum(axis=1).max(initial=0)))


def uniform_weights(graph: "nx.Graph") -> np.ndarray:
    """Gives a node and its neighbours equal weights; doubly stochastic on regular graphs only.

    Args:
        graph: an undirected graph.

    Returns:
        A matrix whose rows sum to one.

    Example:
        >>> import networkx as nx
        >>> uniform_weights(nx.cycle_graph(3)).round(2).tolist()
        [[0.33, 0.33, 0.33], [0.33, 0.33, 0.33], [0.33, 0.33, 0.33]]
    """
    adjacency = adjacency_of(graph)
    return _with_rest(adjacency / (1 + adjacency.sum(axis=1, keepdims=True)))


def adjacency_of(graph: "nx.Graph") -> np.ndarray:
    """Gives an undirected graph's adjacency matrix, nodes in their order, without weights and loops."""
    require_undirected(graph, "graph")
    number = {node: index for index, node in enumerate(graph)}
    return adjacency_of_edges(len(number), ((number[a], number[b]) for a, b in graph.edges()))


def adjacency_of_edges(size: int, edges: Iterable[tuple[int, int]]) -> np.ndarray:
    """Gives the adjacency matrix of edges that join workers; loops do not count, and doubled edges count once."""
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
        summary="Mixing weights of any graph: one over one more than the larger degree of an edge's ends.",
        also_known_as=("Metropolis-Hastings weights", "MH weights"),
    ),
    Method(
        name="topology.max_degree_weights",
        factory=max_degree_weights,
        kind="function",
        summary="Mixing weights of any graph: one over one more than the graph's largest degree, on every edge.",
        also_known_as=("maximum-degree weights",),
    ),
    Method(
        name="topology.uniform_weights",
        factory=uniform_weights,
        kind="function",
        summary="Mixing weights of a regular graph: a node and its neighbours count equally.",
        also_known_as=("uniform-neighbour weights",),
    ),
)
