"""How often each two neighbours talk, where workers talk in pairs at random times.

Nabli, Oyallon, "DADAO: Decoupled Accelerated Decentralized Asynchronous Optimization", 2022, arXiv:2208.00779, which
asks for the fewest exchanges whose constants satisfy `chi1 * chi2 <= 1/2` and leaves them to a semidefinite program.
Both constants are log-convex in the edges' probabilities, so that exponentiated gradients find the optimum here.
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
    """Exchanges per unit of time along the edges of a graph, each a Poisson process of its own.

    Attributes:
        size: the number of workers.
        edges: shape (edges, 2), the workers that an edge joins.
        rates: shape (edges,), the mean number of exchanges in a unit of time, in which each worker takes one gradient
            on average. Edges and rates are kept as copies that cannot be written to.

    Raises:
        ValueError: if an edge joins no two of the workers, if a rate is not positive and finite, or if the edges leave
            workers apart.

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
            raise ValueError("these edges leave workers apart for ever: the graph is not connected")

    @property
    def total(self) -> float:
        """The mean number of exchanges in a unit of time, over all edges."""
        return float(self.rates.sum())

    @property
    def chi1(self) -> float:
        """The inverse of the second smallest eigenvalue of the Laplacian weighted by the rates; 0 for one worker."""
        return float(1 / self.spectrum[0][1]) if self.size > 1 else 0.0

    @property
    def chi2(self) -> float:
        """Half the largest effective resistance of an edge, rates being conductances; 0 for one worker."""
        return float(self.resistances.max(initial=0.0) / 2)

    @functools.cached_property
    def spectrum(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues, ascending, and eigenvectors of the Laplacian weighted by the rates."""
        first, second = self.edges.T
        weights = np.zeros((self.size, self.size))
        np.add.at(weights, (first, second), self.rates)
        weights += weights.T
        return np.linalg.eigh(np.diag(weights.sum(axis=1)) - weights)

    @functools.cached_property
    def laplacian_inverse(self) -> np.ndarray:
        """The pseudoinverse of that Laplacian."""
        values, vectors = self.spectrum
        return (vectors[:, 1:] / values[1:]) @ vectors[:, 1:].T

    @property
    def resistances(self) -> np.ndarray:
        """The effective resistance between the ends of each edge, rates being conductances."""
        first, second = self.edges.T
        diagonal = np.diag(self.laplacian_inverse)
        return diagonal[first] + diagonal[second] - 2 * self.laplacian_inverse[first, second]


def uniform_rates(topology: Topology) -> GossipRates:
    """Lets all edges talk equally often, as rarely as `dadao` allows: with `chi1 * chi2 = 1/2`.

    Args:
        topology: whose edges are used, not its weights; of a periodic one those of all steps. For a `networkx` graph
            see `from_graph`.

    Returns:
        The rates.

    Raises:
        ValueError: if a message of the topology has no answer: exchanges go both ways.

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
    """Finds how often each edge should talk, so that all of them together talk least: with `chi1 * chi2 = 1/2`.

    Edges that others can stand in for talk less, bridges more. A step costs an eigendecomposition: a second in all for
    a dozen workers. For hundreds of workers, and on graphs whose edges are all alike, take `uniform_rates`.

    Args:
        topology: whose edges are used, not its weights; of a periodic one those of all steps. For a `networkx` graph
            see `from_graph`.
        steps: how many steps of exponentiated gradients are taken, at least 1; 3,000 come within 0.2% of the optimum on
            graphs of a dozen workers.

    Returns:
        The best rates met, never more exchanges than with `uniform_rates`.

    Raises:
        ValueError: if `steps` is no positive integer, or a message of the topology has no answer.

    Example:
        >>> from networkx import barbell_graph
        >>> from optkit.decentralized.topology import from_graph
        >>> round(optimal_rates(from_graph(barbell_graph(4, 0))).total, 1)
        13.2

    Reference:
        Nabli, Oyallon, "DADAO: Decoupled Accelerated Decentralized Asynchronous Optimization", 2022, arXiv:2208.00779.
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
    """A subgradient of the logarithm of `sqrt(chi1 * chi2)` in the rates, but for a positive factor."""
    first, second = rates.edges.T
    values, vectors = rates.spectrum
    resistances = rates.resistances
    worst = np.argmax(resistances)
    potential = rates.laplacian_inverse[:, first[worst]] - rates.laplacian_inverse[:, second[worst]]
    of_chi1 = (vectors[first, 1] - vectors[second, 1]) ** 2 / values[1]
    of_chi2 = (potential[first] - potential[second]) ** 2 / resistances[worst]
    return -0.5 * (of_chi1 + of_chi2)


def _scaled(rates: GossipRates) -> GossipRates:
    """Makes the product of the constants 1/2: it falls with the square of the rates."""
    return dataclasses.replace(rates, rates=rates.rates * np.sqrt(2 * rates.chi1 * rates.chi2))


def _edges(topology: Topology) -> np.ndarray:
    heard = np.any(topology.matrices != 0, axis=0) & ~np.eye(topology.size, dtype=bool)
    if np.any(heard != heard.T):
        receiver, sender = np.argwhere(heard & ~heard.T)[0]
        raise ValueError(
            f"exchanges go both ways, but worker {receiver} hears worker {sender} and is not heard by it: make an"
            " undirected topology, with from_graph for example"
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
        summary="How often each two neighbours should talk, so that all of them together talk least.",
        paper=DADAO,
        also_known_as=("gossip rates",),
        parts=(GossipRates,),
    ),
    Method(
        name="uniform_rates",
        factory=uniform_rates,
        kind="function",
        summary="Lets all neighbours talk equally often, as rarely as DADAO allows.",
        paper=DADAO,
        also_known_as=("gossip rates",),
    ),
)
