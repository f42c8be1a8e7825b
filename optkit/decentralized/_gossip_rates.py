"""How often neighbours exchange values, if workers exchange in pairs at random times.

Nabli, Oyallon, "DADAO: Decoupled Accelerated Decentralized Asynchronous Optimization", 2022, arXiv:2208.00779. The
paper asks for the fewest exchanges whose constants satisfy `chi1 * chi2 <= 1/2`, and finds them by a semidefinite
program. Both constants are log-convex in the edges' probabilities, so exponentiated gradients find the optimum here.
"""

import dataclasses
import functools

import numpy as np

from optkit.core.checks import check_integer
from optkit.decentralized.topology import Topology
from optkit.decentralized.topology._topology import require_topology
from optkit.method import Method, Paper

__all__ = ["GossipRates", "optimal_rates", "uniform_rates"]


@dataclasses.dataclass(frozen=True, eq=False)
class GossipRates:
    """Rates of exchanges along the edges of a graph, each edge with a Poisson process of its own.

    Use it when you have rates of your own: `uniform_rates` and `optimal_rates` compute them from a topology.

    Attributes:
        size: Number of workers.
        edges: The two workers that each edge joins, shape (edges, 2).
        rates: Mean number of exchanges along each edge in a unit of time, in which each worker takes one gradient on
            average; shape (edges,). Edges and rates are stored as copies that are read-only.

    Raises:
        ValueError: If an edge does not join two of the workers, a rate is not positive and finite, or the edges do not
            connect all workers.

    Example:
        >>> rates = GossipRates(2, np.array([[0, 1]]), np.array([1.0]))
        >>> round(rates.chi1, 9), round(rates.chi2, 9)
        (0.5, 0.5)
    """

    size: int
    edges: np.ndarray
    rates: np.ndarray

    def __post_init__(self):
        check_integer("size", self.size)
        edges, rates = np.array(self.edges, np.int32), np.array(self.rates, np.float64)
        for copy in (edges, rates):
            copy.setflags(write=False)
        object.__setattr__(self, "edges", edges)
        object.__setattr__(self, "rates", rates)
        if edges.ndim != 2 or edges.shape[1] != 2 or rates.shape != edges.shape[:1]:
            raise ValueError(f"edges must be (edges, 2) and rates (edges,) in shape, got {edges.shape}, {rates.shape}")
        if np.any((edges < 0) | (edges >= self.size)) or np.any(edges[:, 0] == edges[:, 1]):
            raise ValueError(f"an edge must join two of the workers 0 to {self.size - 1}, got {edges.tolist()}")
        if not np.all((rates > 0) & np.isfinite(rates)):
            raise ValueError(f"rates must be positive and finite, got {rates.tolist()}")
        if self.size > 1 and self.spectrum[0][1] < 1e-12 * rates.max(initial=1.0):
            raise ValueError("the edges do not connect all workers: the graph must be connected")

    @property
    def total(self) -> float:
        """The mean number of exchanges in a unit of time, summed over all edges."""
        return float(self.rates.sum())

    @property
    def chi1(self) -> float:
        """The inverse of the second smallest eigenvalue of the Laplacian weighted by the rates; 0 for one worker."""
        return float(1 / self.spectrum[0][1]) if self.size > 1 else 0.0

    @property
    def chi2(self) -> float:
        """Half the largest effective resistance of an edge, with the rates as conductances; 0 for one worker."""
        return float(self.resistances.max(initial=0.0) / 2)

    @functools.cached_property
    def spectrum(self) -> tuple[np.ndarray, np.ndarray]:
        """The eigenvalues, in ascending order, and the eigenvectors of the Laplacian weighted by the rates."""
        first, second = self.edges.T
        weights = np.zeros((self.size, self.size))
        np.add.at(weights, (first, second), self.rates)
        weights += weights.T
        return np.linalg.eigh(np.diag(weights.sum(axis=1)) - weights)

    @functools.cached_property
    def laplacian_inverse(self) -> np.ndarray:
        """The pseudoinverse of the Laplacian weighted by the rates."""
        values, vectors = self.spectrum
        return (vectors[:, 1:] / values[1:]) @ vectors[:, 1:].T

    @functools.cached_property
    def matchings(self) -> tuple[np.ndarray, ...]:
        """The edges in groups, by their indices, so that no worker occurs twice in a group: they can exchange at once.

        The groups are few. There are as many as one worker has neighbours if the graph is bipartite (a star, a tree, a
        hypercube, a ring of even size) or complete with an even number of workers, and rarely more than one more
        otherwise.

        Example:
            >>> from optkit import topology
            >>> [group.tolist() for group in uniform_rates(topology.star(4)).matchings]
            [[2], [1], [0]]
        """
        import networkx as nx

        first, second = np.sort(self.edges.T, axis=0)
        last = self.size - 1
        if self.size % 2 == 0 and len(self.edges) == self.size * last / 2 == len({*zip(first, second, strict=True)}):
            # The graph is complete. The edges are the games of a tournament, all against all.
            day = np.where(second == last, 2 * first, first + second) % last
            return tuple(np.flatnonzero(day == index) for index in range(last))
        remaining, matchings = dict(enumerate(self.edges.tolist())), []
        while remaining:
            degree = np.bincount(np.ravel([*remaining.values()]), minlength=self.size)
            graph = nx.Graph()
            for index, (one, other) in remaining.items():
                # Those with most edges left come first: a bipartite graph then needs no more groups than its degree.
                graph.add_edge(one, other, index=index, weight=int(degree[one] + degree[other]))
            matching = sorted(graph.edges[pair]["index"] for pair in nx.max_weight_matching(graph))
            matchings.append(np.array(matching))
            remaining = {index: pair for index, pair in remaining.items() if index not in matching}
        return tuple(matchings)

    @property
    def resistances(self) -> np.ndarray:
        """The effective resistance between the two ends of each edge, with the rates as conductances."""
        first, second = self.edges.T
        diagonal = np.diag(self.laplacian_inverse)
        return diagonal[first] + diagonal[second] - 2 * self.laplacian_inverse[first, second]


def uniform_rates(topology: Topology) -> GossipRates:
    """Makes equal rates for all edges, the smallest that `dadao` and `dadao_events` allow, with `chi1 * chi2 = 1/2`.

    Use it when the graph is large (hundreds of workers), or when all its edges are alike. Avoid it when some edges are
    bridges between parts of the graph, because `optimal_rates` then needs fewer exchanges.

    Args:
        topology: Which workers exchange messages, from `optkit.topology`. Only its edges are used, not its weights; of
            a periodic topology the edges of all steps. For a `networkx` graph see `from_graph`.

    Returns:
        The rates.

    Raises:
        ValueError: If a worker hears another that does not hear it, because exchanges go both ways.
        TypeError: If `topology` is not a `Topology`.

    Example:
        >>> from networkx import barbell_graph
        >>> from optkit.decentralized.topology import from_graph
        >>> round(uniform_rates(from_graph(barbell_graph(4, 0))).total, 2)
        21.84
    """
    require_topology(topology)
    edges = _edges(topology)
    return _scaled(GossipRates(topology.size, edges, np.full(len(edges), 1 / max(len(edges), 1))))


def optimal_rates(topology: Topology, steps: int = 3000) -> GossipRates:
    """Finds the rates of exchanges whose sum is smallest, with `chi1 * chi2 = 1/2`.

    An edge that others can replace gets a lower rate, a bridge a higher one. The rates are found by exponentiated
    gradients.

    Use it when exchanges are expensive and the edges of the graph differ. Avoid it for hundreds of workers, because
    each step costs an eigendecomposition (with a dozen workers all steps take about a second), and on graphs whose
    edges are all alike: use `uniform_rates` there.

    Args:
        topology: Which workers exchange messages, from `optkit.topology`. Only its edges are used, not its weights; of
            a periodic topology the edges of all steps. For a `networkx` graph see `from_graph`.
        steps: Number of steps of exponentiated gradients, at least 1. Default: 3000, which comes within 0.2% of the
            optimum on graphs of a dozen workers.

    Returns:
        The best rates found. Their sum is never above that of `uniform_rates`.

    Raises:
        ValueError: If `steps` is not a positive integer, or a worker hears another that does not hear it.
        TypeError: If `topology` is not a `Topology`.

    Example:
        >>> from networkx import barbell_graph
        >>> from optkit.decentralized.topology import from_graph
        >>> round(optimal_rates(from_graph(barbell_graph(4, 0))).total, 1)
        13.2

    Reference:
        arXiv:2208.00779.
    """
    check_integer("steps", steps)
    best = current = uniform_rates(topology)
    if len(best.edges) < 2:
        return best
    for step in range(steps):
        slope = _slope(current)
        probabilities = current.rates * np.exp(-0.5 / np.sqrt(step + 1) * slope / np.abs(slope).max())
        current = _scaled(GossipRates(topology.size, best.edges, probabilities / probabilities.sum()))
        best = min(best, current, key=lambda rates: rates.total)
    return best


def _slope(rates: GossipRates) -> np.ndarray:
    """Returns a subgradient of the logarithm of `sqrt(chi1 * chi2)` in the rates, up to a positive factor."""
    first, second = rates.edges.T
    values, vectors = rates.spectrum
    resistances = rates.resistances
    worst = np.argmax(resistances)
    potential = rates.laplacian_inverse[:, first[worst]] - rates.laplacian_inverse[:, second[worst]]
    of_chi1 = (vectors[first, 1] - vectors[second, 1]) ** 2 / values[1]
    of_chi2 = (potential[first] - potential[second]) ** 2 / resistances[worst]
    return -0.5 * (of_chi1 + of_chi2)


def _scaled(rates: GossipRates) -> GossipRates:
    """Scales the rates so that `chi1 * chi2` is 1/2; the product falls with the square of the rates."""
    return dataclasses.replace(rates, rates=rates.rates * np.sqrt(2 * rates.chi1 * rates.chi2))


def _edges(topology: Topology) -> np.ndarray:
    heard = np.any(topology.matrices != 0, axis=0) & ~np.eye(topology.size, dtype=bool)
    if np.any(heard != heard.T):
        receiver, sender = np.argwhere(heard & ~heard.T)[0]
        raise ValueError(
            f"exchanges go both ways, but worker {receiver} hears worker {sender} and is not heard by it: use an"
            " undirected topology, for example from_graph(graph)"
        )
    return np.argwhere(np.triu(heard)).astype(np.int32)


DADAO = Paper(
    "DADAO: Decoupled Accelerated Decentralized Asynchronous Optimization", "Nabli, Oyallon", 2022, "2208.00779"
)

METHODS = (
    Method(
        name="optimal_rates",
        factory=optimal_rates,
        kind="function",
        summary="Finds how often neighbours should exchange values, so that the number of exchanges is smallest.",
        paper=DADAO,
        also_known_as=("gossip rates",),
        parts=(GossipRates,),
    ),
    Method(
        name="uniform_rates",
        factory=uniform_rates,
        kind="function",
        summary="Makes equal rates of exchanges for all neighbours, the smallest that DADAO allows.",
        paper=DADAO,
        also_known_as=("gossip rates",),
    ),
)
