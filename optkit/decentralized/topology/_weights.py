"""Mixing matrices of graphs."""

from typing import Any

import networkx as nx
import numpy as np


def require_undirected(graph: Any, name: str) -> None:
    """Raises unless an argument is a graph whose edges go both ways.

    Args:
        graph: what was given.
        name: the argument's name, for the message.

    Raises:
        TypeError: if it is no graph of `networkx`.
        ValueError: if it is directed.

    Example:
        >>> require_undirected(nx.path_graph(3), "graph")
    """
    if not isinstance(graph, nx.Graph):
        raise TypeError(f"{name} must be an undirected graph of networkx, got {type(graph).__name__}")
    if graph.is_directed():
        raise ValueError(
            f"{name} must be undirected, got a {type(graph).__name__}: take {name}.to_undirected(), or make a Topology"
            " of a mixing matrix for messages that go one way"
        )


def metropolis_weights(graph: nx.Graph) -> np.ndarray:
    """Gives an edge one over one more than the larger degree of its ends, and nodes the rest.

    Args:
        graph: an undirected graph.

    Returns:
        A symmetric, doubly stochastic matrix.

    Example:
        >>> metropolis_weights(nx.path_graph(3)).round(2).tolist()
        [[0.67, 0.33, 0.0], [0.33, 0.33, 0.33], [0.0, 0.33, 0.67]]
    """
    adjacency = adjacency_of(graph)
    degrees = adjacency.sum(axis=1)
    return _with_rest(adjacency / (1 + np.maximum(degrees[:, None], degrees)))


def max_degree_weights(graph: nx.Graph) -> np.ndarray:
    """Gives every edge one over one more than the graph's largest degree, and nodes the rest.

    Args:
        graph: an undirected graph.

    Returns:
        A symmetric, doubly stochastic matrix.

    Example:
        >>> max_degree_weights(nx.star_graph(2)).round(2).tolist()
        [[0.33, 0.33, 0.33], [0.33, 0.67, 0.0], [0.33, 0.0, 0.67]]
    """
    adjacency = adjacency_of(graph)
    return _with_rest(adjacency / (1 + adjacency.sum(axis=1).max(initial=0)))


def uniform_weights(graph: nx.Graph) -> np.ndarray:
    """Gives a node and its neighbours equal weights; doubly stochastic on regular graphs only.

    Args:
        graph: an undirected graph.

    Returns:
        A matrix whose rows sum to one.

    Example:
        >>> uniform_weights(nx.cycle_graph(3)).round(2).tolist()
        [[0.33, 0.33, 0.33], [0.33, 0.33, 0.33], [0.33, 0.33, 0.33]]
    """
    adjacency = adjacency_of(graph)
    return _with_rest(adjacency / (1 + adjacency.sum(axis=1, keepdims=True)))


def adjacency_of(graph: nx.Graph) -> np.ndarray:
    """Gives an undirected graph's adjacency matrix, nodes in their order, without weights and loops."""
    require_undirected(graph, "graph")
    return nx.to_numpy_array(simple(graph))


def simple(graph: nx.Graph) -> nx.Graph:
    """Drops loops and doubled edges, such as those of a ring of one or two."""
    simple = nx.Graph()
    simple.add_nodes_from(graph.nodes)
    simple.add_edges_from((a, b) for a, b in graph.edges() if a != b)
    return simple


def _with_rest(weights: np.ndarray) -> np.ndarray:
    """Fills the diagonal so that rows sum to one."""
    return weights + np.diag(1 - weights.sum(axis=1))
