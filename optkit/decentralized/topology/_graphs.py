"""Topologies by name, and of any graph."""

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from optkit.core.checks import check_integer, check_range
from optkit.decentralized.topology._topology import Topology, require_topology
from optkit.decentralized.topology._weights import (
    adjacency_of_edges,
    metropolis_weights,
    metropolis_weights_of,
    require_undirected,
)
from optkit.method import Method, Paper

if TYPE_CHECKING:
    import networkx as nx

__all__ = [
    "binary_tree",
    "circulant",
    "complete",
    "erdos_renyi",
    "exponential",
    "from_graph",
    "grid",
    "hypercube",
    "one_peer_exponential",
    "path",
    "random_matchings",
    "ring",
    "sequence",
    "star",
    "symmetric_exponential",
    "torus",
]


def from_graph(graph: "nx.Graph", weights: "Callable[[nx.Graph], np.ndarray] | None" = None) -> Topology:
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
    import networkx as nx

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
    return _from_edges(size, ((k, (k + 1) % size) for k in range(size)))


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
    return _from_edges(size, ((k, k + 1) for k in range(size - 1)))


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
    shorter, longer = _sides(size)
    places = np.arange(size).reshape(shorter, longer)
    return _from_edges(size, (*_pairs(places[1:], places[:-1]), *_pairs(places[:, 1:], places[:, :-1])))


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
    shorter, longer = _sides(size)
    places = np.arange(size).reshape(longer, shorter)
    return _from_edges(size, (pair for axis in (0, 1) for pair in _pairs(places, np.roll(places, 1, axis))))


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
    return _from_edges(size, ((i, i ^ 2**k) for i in range(size) for k in range(dimension)))


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
    return _from_edges(size, ((0, k) for k in range(1, size)))


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
    return _from_edges(size, ((k, k // 2) for k in range(1, size)))


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
    import networkx as nx

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
    import networkx as nx

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


def _from_edges(size: int, edges: Iterable[tuple[int, int]]) -> Topology:
    """Makes a topology of edges between workers, as `from_graph` does of a graph."""
    return Topology(metropolis_weights_of(adjacency_of_edges(size, edges))[None])


def _pairs(first: np.ndarray, second: np.ndarray) -> Iterable[tuple[int, int]]:
    return zip(first.ravel().tolist(), second.ravel().tolist(), strict=True)


def _sides(size: int) -> tuple[int, int]:
    check_integer("size", size)
    shorter = max(side for side in range(1, math.isqrt(size) + 1) if size % side == 0)
    return shorter, size // shorter


_EXPONENTIAL = Paper(
    "Exponential Graph is Provably Efficient for Decentralized Deep Training", "Ying et al.", 2021, "2110.13363"
)

METHODS = (
    Method(
        name="topology.from_graph",
        factory=from_graph,
        kind="function",
        summary="Makes a topology of any connected graph of networkx, with Metropolis weights or others.",
    ),
    Method(
        name="topology.ring",
        factory=ring,
        kind="function",
        summary="Each worker hears the next and the one before.",
        also_known_as=("cycle graph",),
    ),
    Method(
        name="topology.path",
        factory=path,
        kind="function",
        summary="Workers in a row hear the ones beside them.",
        also_known_as=("chain", "line graph"),
    ),
    Method(
        name="topology.grid",
        factory=grid,
        kind="function",
        summary="Workers hear their neighbours in a rectangle.",
        also_known_as=("mesh grid", "2D grid"),
    ),
    Method(
        name="topology.torus",
        factory=torus,
        kind="function",
        summary="Workers hear their neighbours in a rectangle whose opposite sides meet.",
        also_known_as=("2D torus",),
    ),
    Method(
        name="topology.hypercube",
        factory=hypercube,
        kind="function",
        summary="Workers hear those whose numbers differ in one binary digit.",
    ),
    Method(
        name="topology.star",
        factory=star,
        kind="function",
        summary="Worker 0 hears all others, and these hear it only.",
    ),
    Method(
        name="topology.complete",
        factory=complete,
        kind="function",
        summary="All workers hear each other: mixing is one all-reduce.",
        also_known_as=("fully connected", "all-reduce"),
    ),
    Method(
        name="topology.binary_tree",
        factory=binary_tree,
        kind="function",
        summary="Workers hear their parent and their two children in a tree.",
    ),
    Method(
        name="topology.circulant",
        factory=circulant,
        kind="function",
        summary="Each worker hears those that stand given numbers of places before it.",
        also_known_as=("directed ring", "unidirectional ring"),
    ),
    Method(
        name="topology.exponential",
        factory=exponential,
        kind="function",
        summary="Each worker hears those that stand 1, 2, 4, 8, ... places before it.",
        paper=_EXPONENTIAL,
        also_known_as=("static exponential graph", "ExponentialTwoGraph"),
    ),
    Method(
        name="topology.symmetric_exponential",
        factory=symmetric_exponential,
        kind="function",
        summary="Each worker hears those that stand a power of four places before or behind it.",
        also_known_as=("SymmetricExponentialGraph",),
    ),
    Method(
        name="topology.one_peer_exponential",
        factory=one_peer_exponential,
        kind="function",
        summary="Each worker hears one other in a step, 1, 2, 4, ... places before it in turn.",
        paper=_EXPONENTIAL,
        also_known_as=("one-peer exponential graph", "dynamic exponential graph"),
    ),
    Method(
        name="topology.erdos_renyi",
        factory=erdos_renyi,
        kind="function",
        summary="Any two workers hear each other with some probability, drawn once.",
        also_known_as=("Erdős-Rényi graph", "random graph", "G(n, p)"),
    ),
    Method(
        name="topology.random_matchings",
        factory=random_matchings,
        kind="function",
        summary="Workers meet in pairs, drawn anew in every step of a period.",
        also_known_as=("random pairwise gossip", "randomized gossip"),
    ),
    Method(
        name="topology.sequence",
        factory=sequence,
        kind="function",
        summary="Takes topologies in turn, one a step.",
        also_known_as=("time-varying topology", "dynamic topology"),
    ),
)
