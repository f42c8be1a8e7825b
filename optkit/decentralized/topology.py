"""Topologies: who hears whom, how much each message weighs, and the permutations that carry the messages.

A mixing matrix is in the receivers' convention, `x_i <- sum_j W[i, j] x_j`. Rows and columns sum to one, so that mixing
keeps the workers' mean.
"""

import dataclasses
import functools
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import networkx as nx
import numpy as np

from optkit.core.checks import check_integer, check_range

_ROUNDING = 1e-9


class Round(NamedTuple):
    """Messages that travel at the same time: each worker sends to one other, or keeps its own.

    Attributes:
        permutation: pairs of sender and receiver, one for each worker.
        weights: what each receiver's message weighs, 0 where there is none.
    """

    permutation: tuple[tuple[int, int], ...]
    weights: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Topology:
    """A mixing matrix, or a periodic sequence of them.

    Attributes:
        matrices: shape (period, workers, workers); entry `[t, i, j]` is what worker i gives the message of worker j in
            step t of a period. Rows and columns sum to one. Negative weights are allowed, with a warning. The topology
            keeps a copy in float64 that cannot be written to.

    Raises:
        ValueError: if a matrix is not square, not real or not finite, if a row or a column does not sum to one, or if
            the exchanges of a period leave workers apart for ever.

    Example:
        >>> Topology(np.full((1, 4, 4), 0.25)).spectral_gap
        1.0
    """

    matrices: np.ndarray

    def __post_init__(self):
        if not np.isrealobj(self.matrices):
            raise ValueError("the mixing weights in matrices must be real numbers, got complex ones")
        matrices = np.array(self.matrices, np.float64)
        matrices.setflags(write=False)
        if matrices.ndim != 3 or matrices.shape[1] != matrices.shape[2] or not matrices.size:
            raise ValueError(f"matrices must have shape (period, workers, workers), got {matrices.shape}")
        object.__setattr__(self, "matrices", matrices)
        if not np.all(np.isfinite(matrices)):
            raise ValueError("mixing weights must be finite numbers")
        for what, axis in (("row", 2), ("column", 1)):
            sums = matrices.sum(axis)
            step, index = np.unravel_index(np.argmax(np.abs(sums - 1)), sums.shape)
            if abs(sums[step, index] - 1) > _ROUNDING:
                raise ValueError(
                    f"a mixing matrix must be doubly stochastic, but {what} {index} sums to {sums[step, index]:.12g}"
                    + (f" in step {step}" if self.period > 1 else "")
                )
        if np.any(matrices < -_ROUNDING):
            step, receiver, sender = np.unravel_index(np.argmin(matrices), matrices.shape)
            warnings.warn(
                f"the mixing weight of worker {sender} at worker {receiver} is {matrices[step, receiver, sender]:.3g}:"
                " means with negative weights may leave the range of their values",
                stacklevel=3,
            )
        if self.contraction > 1 - _ROUNDING:
            raise ValueError(
                f"these exchanges leave workers apart for ever: ||W - 11'/n|| is {self.contraction:.6g} and must be"
                " less than 1. The graph is not connected, or it is bipartite and no worker weighs its own value"
            )

    @property
    def size(self) -> int:
        """The number of workers."""
        return self.matrices.shape[1]

    @property
    def period(self) -> int:
        """How many steps there are until the exchanges repeat."""
        return self.matrices.shape[0]

    @functools.cached_property
    def contraction(self) -> float:
        """By how much a period shrinks the workers' distance from their mean at least, `||W - 11'/n||_2`.

        All eigenvalues count, negative ones too; over a period W is the product.
        """
        product = functools.reduce(lambda product, matrix: matrix @ product, self.matrices)
        return float(np.linalg.norm(product - 1 / self.size, 2))

    @property
    def spectral_gap(self) -> float:
        """One less `contraction`."""
        return 1 - self.contraction

    @functools.cached_property
    def smallest_eigenvalue(self) -> float:
        """The smallest eigenvalue of the steps' matrices, of their symmetric parts where they are directed.

        Example:
            >>> round(ring(4).smallest_eigenvalue, 3)
            -0.333
        """
        return float(np.linalg.eigvalsh((self.matrices + self.matrices.swapaxes(1, 2)) / 2).min())

    @property
    def is_symmetric(self) -> bool:
        """Whether every worker gives another what it gets from it."""
        return np.allclose(self.matrices, self.matrices.swapaxes(1, 2), rtol=0, atol=_ROUNDING)

    @functools.cached_property
    def rounds(self) -> tuple[tuple[Round, ...], ...]:
        """The permutations that carry the messages of each step of a period, as few as there can be.

        Their number is the largest number of messages that one worker sends or gets: by König's theorem the edges of a
        bipartite graph, senders against receivers, have such a colouring.
        """
        return tuple(_rounds(matrix) for matrix in self.matrices)

    @property
    def messages(self) -> np.ndarray:
        """How many messages each worker sends, of shape (period, workers)."""
        return np.sum(_without_diagonal(self.matrices) != 0, axis=1)

    def lazy(self) -> "Topology":
        """Gives the topology `(I + W) / 2`, without negative eigenvalues where it is symmetric.

        Example:
            >>> round(ring(4).lazy().contraction, 3)
            0.667
        """
        return Topology((np.eye(self.size) + self.matrices) / 2)


def require_topology(topology: Any, name: str = "topology") -> None:
    """Raises unless an argument is a topology.

    Args:
        topology: what was given.
        name: the argument's name, for the message.

    Raises:
        TypeError: if it is none, but a matrix or a graph.

    Example:
        >>> require_topology(ring(4))
    """
    if not isinstance(topology, Topology):
        raise TypeError(
            f"{name} must be a Topology, such as ring(8), from_graph(graph) or Topology(matrices), got"
            f" {type(topology).__name__}"
        )


def from_graph(graph: nx.Graph, weights: Callable[[nx.Graph], np.ndarray] | None = None) -> Topology:
    """Makes a topology of an undirected graph.

    Args:
        graph: whose nodes, in their order, are the workers.
        weights: gives the mixing matrix of the graph; default `metropolis_weights`. See also `max_degree_weights` and
            `uniform_weights`.

    Returns:
        The topology.

    Raises:
        ValueError: if the graph is directed or not connected, or the weights are not doubly stochastic.
        TypeError: if `graph` is no graph of `networkx`, or `weights` no function.

    Example:
        >>> import networkx
        >>> round(from_graph(networkx.petersen_graph()).spectral_gap, 3)
        0.5
    """
    require_undirected(graph, "graph")
    if weights is not None and not callable(weights):
        raise TypeError(
            "weights must be a function of the graph, such as metropolis_weights; of a mixing matrix make a Topology:"
            f" Topology(matrix[None]); got {type(weights).__name__}"
        )
    if graph.number_of_nodes() == 0 or not nx.is_connected(graph):
        parts = nx.number_connected_components(graph)
        raise ValueError(f"a topology's graph must be connected, got {parts} parts")
    return Topology((metropolis_weights if weights is None else weights)(graph)[None])


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


def ring(size: int) -> Topology:
    """Joins each worker with the next and the one before.

    Args:
        size: the number of workers, at least 1.

    Returns:
        The topology; a worker sends 2 messages.

    Example:
        >>> round(ring(16).contraction, 4)
        0.9493
    """
    check_integer("size", size)
    return from_graph(_simple(nx.cycle_graph(size)))


def path(size: int) -> Topology:
    """Joins workers in a row.

    Args:
        size: the number of workers, at least 1.

    Returns:
        The topology; a worker sends up to 2 messages.

    Example:
        >>> path(4).messages.tolist()
        [[1, 2, 2, 1]]
    """
    check_integer("size", size)
    return from_graph(nx.path_graph(size))


def grid(size: int) -> Topology:
    """Joins workers with their neighbours in a rectangle, as near a square as their number allows.

    Args:
        size: the number of workers, at least 1; a prime number makes a path.

    Returns:
        The topology; a worker sends up to 4 messages.

    Example:
        >>> grid(6).messages.tolist()
        [[2, 3, 2, 2, 3, 2]]
    """
    return from_graph(nx.grid_2d_graph(*_sides(size)))


def torus(size: int) -> Topology:
    """Joins workers with their neighbours in a rectangle whose opposite sides meet.

    Args:
        size: the number of workers, at least 1; a prime number makes a ring.

    Returns:
        The topology; a worker sends up to 4 messages, fewer where a side is 1 or 2.

    Example:
        >>> torus(9).messages.tolist()
        [[4, 4, 4, 4, 4, 4, 4, 4, 4]]
    """
    return from_graph(_simple(nx.grid_2d_graph(*reversed(_sides(size)), periodic=True)))


def hypercube(size: int) -> Topology:
    """Joins workers whose numbers differ in one binary digit.

    Args:
        size: the number of workers, a power of two.

    Returns:
        The topology; a worker sends log2(size) messages.

    Raises:
        ValueError: if `size` is not a power of two.

    Example:
        >>> round(hypercube(8).spectral_gap, 3)
        0.5
    """
    check_integer("size", size)
    dimension = size.bit_length() - 1
    if size != 2**dimension:
        raise ValueError(f"size must be a power of two for a hypercube, got {size}")
    graph = nx.empty_graph(size)
    graph.add_edges_from((i, i ^ 2**k) for i in range(size) for k in range(dimension))
    return from_graph(graph)


def star(size: int) -> Topology:
    """Joins worker 0 with all others, and these with it only.

    Args:
        size: the number of workers, at least 1.

    Returns:
        The topology; worker 0 sends `size - 1` messages, one after the other.

    Example:
        >>> star(4).messages.tolist()
        [[3, 1, 1, 1]]
    """
    check_integer("size", size)
    return from_graph(nx.star_graph(size - 1))


def complete(size: int) -> Topology:
    """Averages over all workers.

    Args:
        size: the number of workers, at least 1.

    Returns:
        The topology; mixing is one `jax.lax.pmean`.

    Example:
        >>> round(complete(3).spectral_gap, 3)
        1.0
    """
    check_integer("size", size)
    return Topology(np.full((1, size, size), 1 / size))


def binary_tree(size: int) -> Topology:
    """Joins worker k with worker k // 2, for k from 1 on.

    Args:
        size: the number of workers, at least 1.

    Returns:
        The topology; a worker sends up to 3 messages.

    Example:
        >>> binary_tree(5).messages.tolist()
        [[1, 3, 2, 1, 1]]
    """
    check_integer("size", size)
    graph = nx.empty_graph(size)
    graph.add_edges_from((k, k // 2) for k in range(1, size))
    return from_graph(graph)


def circulant(size: int, offsets: Sequence[int]) -> Topology:
    """Lets each worker hear those that stand some places before it, with equal weights.

    Args:
        size: the number of workers, at least 1.
        offsets: how many places, modulo the number of workers; 0, a worker's own value, is always heard.

    Returns:
        The topology, directed unless with each offset there is its negative; a worker sends one message an offset.

    Raises:
        ValueError: if `size` is no positive integer, or an offset no integer.

    Example:
        >>> circulant(4, [1]).matrices[0, 1].tolist()
        [0.5, 0.5, 0.0, 0.0]
    """
    check_integer("size", size)
    for offset in offsets:
        check_integer("offsets", offset, least=-sys.maxsize)
    heard = sorted({0, *(offset % size for offset in offsets)})
    return Topology(np.mean([np.roll(np.eye(size), offset, axis=0) for offset in heard], axis=0)[None])


def exponential(size: int) -> Topology:
    """Lets each worker hear those that stand 1, 2, 4, 8, ... places before it, with equal weights.

    Args:
        size: the number of workers, at least 1.

    Returns:
        A directed topology; a worker sends about log2(size) messages.

    Example:
        >>> exponential(8).messages[0].tolist()
        [3, 3, 3, 3, 3, 3, 3, 3]

    Reference:
        Ying, Yuan, Chen, Hu, Pan, Yin, "Exponential Graph is Provably Efficient for Decentralized Deep Training", 2021,
        arXiv:2110.13363.
    """
    check_integer("size", size)
    return circulant(size, [2**k for k in range((size - 1).bit_length())])


def symmetric_exponential(size: int, base: int = 4) -> Topology:
    """Joins each worker with those that stand 1, base, base^2, ... places before or behind it, with equal weights.

    Args:
        size: the number of workers, at least 1.
        base: at least 2; default 4.

    Returns:
        The topology; a worker sends about 2 log(size) / log(base) messages.

    Raises:
        ValueError: if `size` or `base` is out of its range.

    Example:
        >>> symmetric_exponential(12).messages[0, 0]
        np.int64(4)
    """
    check_integer("size", size)
    check_integer("base", base)
    check_range("base", base, 2)
    hops = [base**k for k in range(size.bit_length()) if base**k <= size // 2]
    return circulant(size, [sign * hop for hop in hops for sign in (1, -1)])


def one_peer_exponential(size: int) -> Topology:
    """Lets each worker hear one other in a step: 1 place before it, then 2, then 4, and so on, in turn.

    After a period all have the exact mean if their number is a power of two.

    Args:
        size: the number of workers, at least 1.

    Returns:
        A periodic, directed topology; a worker sends one message a step.

    Example:
        >>> topology = one_peer_exponential(8)
        >>> topology.period, round(topology.spectral_gap, 3)
        (3, 1.0)

    Reference:
        Ying, Yuan, Chen, Hu, Pan, Yin, "Exponential Graph is Provably Efficient for Decentralized Deep Training", 2021,
        arXiv:2110.13363.
    """
    check_integer("size", size)
    hops = [2**k for k in range((size - 1).bit_length())] or [0]
    return Topology(np.stack([(np.eye(size) + np.roll(np.eye(size), hop, axis=0)) / 2 for hop in hops]))


def erdos_renyi(size: int, probability: float, *, seed: int) -> Topology:
    """Joins any two workers with some probability; draws again until all are connected.

    Args:
        size: the number of workers, at least 1.
        probability: in (0, 1].
        seed: an integer, at least 0.

    Returns:
        The topology.

    Raises:
        ValueError: if a hyperparameter is out of its range, or no connected graph was drawn in 1,000 trials.

    Example:
        >>> erdos_renyi(8, 0.5, seed=0).size
        8
    """
    check_integer("size", size)
    check_range("probability", probability, 0.0, 1.0, low_open=True)
    check_integer("seed", seed, least=0)
    generator = np.random.default_rng(seed)
    for _ in range(1000):
        graph = nx.gnp_random_graph(size, probability, seed=int(generator.integers(2**31)))
        if nx.is_connected(graph):
            return from_graph(graph)
    raise ValueError(f"no connected graph of {size} workers with probability {probability} in 1000 draws: raise it")


def sequence(*topologies: Topology) -> Topology:
    """Takes topologies in turn, one a step.

    Args:
        *topologies: of equal size; each is connected by itself. For a sequence that is connected as a whole only, make
            a `Topology` of its matrices.

    Returns:
        Their sequence.

    Raises:
        ValueError: if there is none, or their sizes differ.
        TypeError: if one is no topology.

    Example:
        >>> sequence(ring(8), hypercube(8)).period
        2
    """
    for topology in topologies:
        require_topology(topology, "topologies")
    sizes = sorted({topology.size for topology in topologies})
    if len(sizes) != 1:
        raise ValueError(f"a sequence needs topologies of one size, got {sizes}")
    return Topology(np.concatenate([topology.matrices for topology in topologies]))


def random_matchings(size: int, period: int, *, seed: int) -> Topology:
    """Joins workers in pairs, drawn anew in every step of a period.

    Args:
        size: the number of workers, at least 1; of an odd number one rests in each step.
        period: the number of steps, at least 1; draws are repeated until they connect all workers.
        seed: an integer, at least 0.

    Returns:
        A periodic topology; a worker sends one message a step.

    Raises:
        ValueError: if a hyperparameter is out of its range, or 1,000 draws leave workers apart.

    Example:
        >>> random_matchings(6, 8, seed=0).messages.max()
        np.int64(1)
    """
    check_integer("size", size)
    check_integer("period", period)
    check_integer("seed", seed, least=0)
    generator = np.random.default_rng(seed)
    for _ in range(1000):
        matrices = np.tile(np.eye(size), (period, 1, 1))
        for matrix in matrices:
            for pair in np.array_split(generator.permutation(size), (size + 1) // 2):
                matrix[np.ix_(pair, pair)] = 1 / len(pair)
        union = nx.from_numpy_array(matrices.sum(axis=0))
        if nx.is_connected(union):
            return Topology(matrices)
    raise ValueError(f"{period} random matchings of {size} workers did not connect them in 1000 draws: raise period")


def plot_topology(topology: Topology, ax: Any) -> None:
    """Draws a topology's workers on a circle and its messages as arrows, wider for larger weights.

    Args:
        topology: to draw; of a periodic one, all messages of a period.
        ax: Matplotlib axes.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> plot_topology(ring(8), plt.figure().add_subplot())
    """
    weights = np.abs(_without_diagonal(topology.matrices)).mean(axis=0)
    receivers, senders = np.nonzero(weights)
    graph = nx.DiGraph()
    graph.add_nodes_from(range(topology.size))
    graph.add_edges_from(zip(senders.tolist(), receivers.tolist(), strict=True))
    width = [1 + 3 * weights[receiver, sender] / weights.max() for sender, receiver in graph.edges]
    arrows = not topology.is_symmetric
    nx.draw_networkx(
        graph if arrows else graph.to_undirected(),
        nx.circular_layout(graph),
        ax=ax,
        node_color="white",
        edgecolors="black",
        width=width if arrows else 1.5,
        font_size=9,
    )
    ax.set_axis_off()
    ax.set_title(f"{topology.size} workers, spectral gap {topology.spectral_gap:.3f}")


def adjacency_of(graph: nx.Graph) -> np.ndarray:
    """Gives an undirected graph's adjacency matrix, nodes in their order, without weights and loops."""
    require_undirected(graph, "graph")
    return nx.to_numpy_array(_simple(graph))


def _simple(graph: nx.Graph) -> nx.Graph:
    """Drops loops and doubled edges, such as those of a ring of one or two."""
    simple = nx.Graph()
    simple.add_nodes_from(graph.nodes)
    simple.add_edges_from((a, b) for a, b in graph.edges() if a != b)
    return simple


def _with_rest(weights: np.ndarray) -> np.ndarray:
    """Fills the diagonal so that rows sum to one."""
    return weights + np.diag(1 - weights.sum(axis=1))


def _without_diagonal(matrices: np.ndarray) -> np.ndarray:
    return matrices * (1 - np.eye(matrices.shape[-1]))


def _sides(size: int) -> tuple[int, int]:
    check_integer("size", size)
    shorter = max(side for side in range(1, math.isqrt(size) + 1) if size % side == 0)
    return shorter, size // shorter


def _rounds(matrix: np.ndarray) -> tuple[Round, ...]:
    """Colours the messages of one step: all of one colour have different senders and different receivers."""
    size = len(matrix)
    offsets = np.flatnonzero([np.any(np.diag(np.roll(matrix, -k, axis=0))) for k in range(size)])
    messages = (_without_diagonal(matrix) != 0).astype(int).T  # [sender, receiver]
    degree = int(max(messages.sum(axis=0).max(), messages.sum(axis=1).max()))
    if np.count_nonzero(offsets) == degree:  # a circulant graph: its offsets, for which weights are equal
        senders = [np.arange(size) - k for k in offsets if k]
        return tuple(_round(_without_diagonal(matrix), np.mod(sender, size)) for sender in senders)
    remaining = messages + _fill(degree - messages.sum(axis=1), degree - messages.sum(axis=0))
    unsent, rounds = _without_diagonal(matrix), []
    for _ in range(degree):
        # A regular bipartite graph has a perfect matching, and without it is regular again.
        graph = nx.Graph()
        graph.add_edges_from((sender, size + receiver) for sender, receiver in zip(*np.nonzero(remaining), strict=True))
        matching = nx.bipartite.hopcroft_karp_matching(graph, range(size))
        sender = np.array([matching[size + receiver] for receiver in range(size)])
        remaining[sender, np.arange(size)] -= 1
        rounds.append(_round(unsent, sender))
        unsent[np.arange(size), sender] = 0  # what fills a later round between the same two has no weight
    return tuple(rounds)


def _round(weights: np.ndarray, sender: np.ndarray) -> Round:
    receiver = np.arange(len(weights))
    weights_of_receivers = weights[receiver, sender]
    weights_of_receivers.setflags(write=False)
    return Round(tuple(zip(sender.tolist(), receiver.tolist(), strict=True)), weights_of_receivers)


def _fill(senders: np.ndarray, receivers: np.ndarray) -> np.ndarray:
    """Gives messages without weight to those that send or get fewer than others: their own, where these are missing."""
    kept = np.minimum(senders, receivers)
    fill = np.diag(kept)
    missing_senders = np.repeat(np.arange(len(senders)), senders - kept)
    missing_receivers = np.repeat(np.arange(len(receivers)), receivers - kept)
    np.add.at(fill, (missing_senders, missing_receivers), 1)
    return fill
