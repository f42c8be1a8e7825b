"""The random walk of Metropolis and Hastings on a graph of workers, for `self_repellent_walk` and for plain walks.

Hastings, "Monte Carlo Sampling Methods Using Markov Chains and Their Applications", 1970, Biometrika 57(1).
"""

from typing import TYPE_CHECKING

import jax
import numpy as np

from optkit.decentralized.topology._weights import require_undirected
from optkit.method import Method, Paper

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["metropolis_walk", "stationary_distribution"]


def metropolis_walk(graph: "nx.Graph", target: jax.typing.ArrayLike | None = None) -> np.ndarray:
    """Makes the transition probabilities of the random walk of Metropolis and Hastings on a graph.

    The rule, where i and j are neighbours and the walk stays at i with the remaining probability::

        P_ij = min(1, degree_i * target_j / (degree_j * target_i)) / degree_i

    Use it when a walk must visit workers with given frequencies, and each worker knows only its neighbours.

    Args:
        graph: A connected, undirected graph. Its nodes, in their order, are the workers.
        target: How often each worker is visited in the long run, positive numbers of shape (workers,). Default: None,
            equally often.

    Returns:
        The matrix of transition probabilities, from the row to the column.

    Raises:
        ValueError: If the graph is directed or not connected, or `target` has another shape or is not positive.
        TypeError: If `graph` is not a graph of `networkx`.

    Example:
        >>> import networkx as nx
        >>> metropolis_walk(nx.path_graph(3)).round(2).tolist()
        [[0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]]

    Reference:
        Hastings, 1970, Biometrika 57(1).
    """
    import networkx as nx

    require_undirected(graph, "graph")
    size = graph.number_of_nodes()
    if size == 0 or not nx.is_connected(graph):
        raise ValueError(f"the graph must be connected, got {nx.number_connected_components(graph)} parts")
    target = np.ones(size) if target is None else np.asarray(target, np.float64)
    if target.shape != (size,) or not np.all(target > 0):
        raise ValueError(f"target must be {size} positive numbers, one for each worker, got {target!r}")
    adjacency = nx.to_numpy_array(graph, weight=None) != 0  # pyright: ignore[reportArgumentType]
    np.fill_diagonal(adjacency, val=False)
    degrees = np.maximum(adjacency.sum(axis=1), 1)
    acceptance = np.minimum(1, degrees[:, None] * target / (degrees * target[:, None]))
    moves = np.where(adjacency, acceptance / degrees[:, None], 0)
    return moves + np.diag(1 - moves.sum(axis=1))


def stationary_distribution(chain: jax.typing.ArrayLike) -> np.ndarray:
    """Computes how often a walk visits each worker in the long run.

    Use it when a walk is given by its transition probabilities only. Avoid it for thousands of workers, because it
    solves a dense system of equations.

    Args:
        chain: Transition probabilities, from the row to the column, of a walk that can reach every worker.

    Returns:
        The distribution, shape (workers,).

    Example:
        >>> stationary_distribution([[0.5, 0.5], [0.25, 0.75]]).round(3).tolist()
        [0.333, 0.667]
    """
    chain = np.asarray(chain, np.float64)
    equations = np.vstack([chain.T - np.eye(len(chain)), np.ones(len(chain))])
    return np.linalg.lstsq(equations, np.eye(len(chain) + 1)[-1], rcond=None)[0]


METHODS = (
    Method(
        name="metropolis_walk",
        factory=metropolis_walk,
        kind="function",
        summary="Makes a random walk on a graph that visits workers with given frequencies.",
        paper=Paper("Monte Carlo Sampling Methods Using Markov Chains and Their Applications", "Hastings", 1970),
        also_known_as=("Metropolis-Hastings random walk", "MHRW"),
        parts=(stationary_distribution,),
    ),
)
