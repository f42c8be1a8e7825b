"""Topologies by name, and topologies of any graph.

Ying, Yuan, Chen, Hu, Pan, Yin, "Exponential Graph is Provably Efficient for Decentralized Deep Training", 2021,
arXiv:2110.13363 (`exponential` and `one_peer_exponential`).
"""

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
    """Makes a topology from an undirected graph of `networkx`.

    Use it when the workers' network is given as a graph, or when no topology by name fits.

    Args:
        graph: A connected, undirected graph. Its nodes, in their order, are the workers.
        weights: A function that maps the graph to its mixing matrix, for example `max_degree_weights` or
            `uniform_weights`. Default: None, which is `metropolis_weights`.

    Returns:
        The topology.

    Raises:
        ValueError: If the graph is directed or not connected, or the weights are not doubly stochastic.
        TypeError: If `graph` is not a graph of `networkx`, or `weights` is not a function.

    Example:
        >>> import networkx
        >>> round(from_graph(networkx.petersen_graph()).spectral_gap, 3)
        0.5
    """
    import networkx as nx

    require_undirected(graph, "graph")
    if weights is not None and not callable(weights):
        raise TypeError(
            f"weights must be a function of the graph, such as metropolis_weights, got {type(weights).__name__}: for a"
            " mixing matrix use Topology(matrix[None])"
        )
    if graph.number_of_nodes() == 0 or not nx.is_connected(graph):
        parts = nx.number_connected_components(graph)
        raise ValueError(f"the graph must be connected, got {parts} parts")
    return Topology((metropolis_weights if weights is None else weights)(graph)[None])


def ring(size: int) -> Topology:
    """Joins each worker with the one before and the one after it, and the last with the first.

    Use it when each worker can reach two others. Avoid it with many workers, because they come together slowly: the
    number of steps grows with the square of the number of workers.

    Args:
        size: Number of workers, at least 1.

    Returns:
        The topology. A worker sends 2 messages in a step.

    Raises:
        ValueError: If `size` is not a positive integer.

    Example:
        >>> round(ring(16).contraction, 4)
        0.9493
    """
    check_integer("size", size)
    return _from_edges(size, ((k, (k + 1) % size) for k in range(size)))


def path(size: int) -> Topology:
    """Joins each worker with the one before and the one after it, in a row.

    Use it when workers stand in a row, or when a method needs a tree, such as `relay_sum`. Avoid it with many workers,
    because they come together even more slowly than on a `ring`.

    Args:
        size: Number of workers, at least 1.

    Returns:
        The topology. A worker sends up to 2 messages in a step.

    Raises:
        ValueError: If `size` is not a positive integer.

    Example:
        >>> path(4).messages.tolist()
        [[1, 2, 2, 1]]
    """
    check_integer("size", size)
    return _from_edges(size, ((k, k + 1) for k in range(size - 1)))


def grid(size: int) -> Topology:
    """Joins workers with their neighbours in a rectangle, as near to a square as their number allows.

    Use it when workers stand in a plane. Avoid it if the opposite sides can be joined as well, because workers come
    together faster on a `torus`.

    Args:
        size: Number of workers, at least 1. A prime number makes a path.

    Returns:
        The topology. A worker sends up to 4 messages in a step.

    Raises:
        ValueError: If `size` is not a positive integer.

    Example:
        >>> grid(6).messages.tolist()
        [[2, 3, 2, 2, 3, 2]]
    """
    shorter, longer = _sides(size)
    places = np.arange(size).reshape(shorter, longer)
    return _from_edges(size, (*_pairs(places[1:], places[:-1]), *_pairs(places[:, 1:], places[:, :-1])))


def torus(size: int) -> Topology:
    """Joins workers with their neighbours in a rectangle whose opposite sides are joined, too.

    Use it when devices are connected in this way. Avoid it for a prime number of workers, because it is then a ring.

    Args:
        size: Number of workers, at least 1. A prime number makes a ring.

    Returns:
        The topology. A worker sends up to 4 messages in a step; fewer if a side of the rectangle is 1 or 2.

    Raises:
        ValueError: If `size` is not a positive integer.

    Example:
        >>> torus(9).messages.tolist()
        [[4, 4, 4, 4, 4, 4, 4, 4, 4]]
    """
    shorter, longer = _sides(size)
    places = np.arange(size).reshape(longer, shorter)
    return _from_edges(size, (pair for axis in (0, 1) for pair in _pairs(places, np.roll(places, 1, axis))))


def hypercube(size: int) -> Topology:
    """Joins workers whose numbers differ in one binary digit.

    Use it when the number of workers is a power of two and they should come together fast on a symmetric topology.
    Avoid it when each message is expensive, because a worker sends log2(size) messages in a step.

    Args:
        size: Number of workers, a power of two.

    Returns:
        The topology. A worker sends log2(size) messages in a step.

    Raises:
        ValueError: If `size` is not a power of two.

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
    """Joins worker 0 with all others, which are joined with worker 0 only.

    Use it when one worker is the centre of the network. Avoid it with many workers, because worker 0 sends its messages
    one after another.

    Args:
        size: Number of workers, at least 1.

    Returns:
        The topology. Worker 0 sends `size - 1` messages in a step, one after another; all others send 1.

    Raises:
        ValueError: If `size` is not a positive integer.

    Example:
        >>> star(4).messages.tolist()
        [[3, 1, 1, 1]]
    """
    check_integer("size", size)
    return _from_edges(size, ((0, k) for k in range(1, size)))


def complete(size: int) -> Topology:
    """Joins all workers with each other, so that mixing averages over all workers.

    Use it when every worker can reach all others fast, or to compare a method with one that averages over all workers.
    Avoid it when the network is slow or joins neighbours only, because all workers then wait for one `all-reduce`.

    Args:
        size: Number of workers, at least 1.

    Returns:
        The topology. Mixing is one `jax.lax.pmean`.

    Raises:
        ValueError: If `size` is not a positive integer.

    Example:
        >>> round(complete(3).spectral_gap, 3)
        1.0
    """
    check_integer("size", size)
    return Topology(np.full((1, size, size), 1 / size))


def binary_tree(size: int) -> Topology:
    """Joins workers k and k // 2, for every k from 1 on.

    Use it when a method needs a tree with a small diameter, such as `relay_sum`.

    Args:
        size: Number of workers, at least 1.

    Returns:
        The topology. A worker sends up to 3 messages in a step.

    Raises:
        ValueError: If `size` is not a positive integer.

    Example:
        >>> binary_tree(5).messages.tolist()
        [[1, 3, 2, 1, 1]]
    """
    check_integer("size", size)
    return _from_edges(size, ((k, k // 2) for k in range(1, size)))


def circulant(size: int, offsets: Sequence[int]) -> Topology:
    """Lets each worker hear the workers at given distances before it, with equal weights.

    Use it when each worker should hear the same pattern of others. Avoid it for methods that need a symmetric topology,
    unless the negative of each offset is given, too.

    Args:
        size: Number of workers, at least 1.
        offsets: Distances, as integers modulo the number of workers. A worker always hears itself, offset 0.

    Returns:
        The topology. It is directed unless the negative of each offset is given, too. A worker sends one message for
        each offset in a step.

    Raises:
        ValueError: If `size` is not a positive integer, or an offset is not an integer.

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
    """Lets each worker hear the workers 1, 2, 4, 8, ... places before it, with equal weights.

    Use it when many workers must come together fast with few messages. Avoid it for methods that need a symmetric
    topology, because it is directed: see `symmetric_exponential`.

    Args:
        size: Number of workers, at least 1.

    Returns:
        A directed topology. A worker sends about log2(size) messages in a step.

    Raises:
        ValueError: If `size` is not a positive integer.

    Example:
        >>> exponential(8).messages[0].tolist()
        [3, 3, 3, 3, 3, 3, 3, 3]

    Reference:
        arXiv:2110.13363.
    """
    check_integer("size", size)
    return circulant(size, [2**k for k in range((size - 1).bit_length())])


def symmetric_exponential(size: int, base: int = 4) -> Topology:
    """Joins each worker with the workers 1, base, base^2, ... places before and after it, with equal weights.

    Use it when many workers must come together fast and a method needs a symmetric topology.

    Args:
        size: Number of workers, at least 1.
        base: Base of the powers, an integer, at least 2. The larger it is, the fewer messages are sent. Default: 4.

    Returns:
        The topology. A worker sends about 2 log(size) / log(base) messages in a step.

    Raises:
        ValueError: If `size` or `base` is out of its range.

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
    """Lets each worker hear one other worker in each step: 1 place before it, then 2, then 4, and so on, in turn.

    If the number of workers is a power of two, all workers have the exact mean after a period.

    Use it when a worker should send one message in a step and still come together with all others fast. Avoid it for
    methods that need a symmetric topology or the same neighbours in each step, because it is directed and periodic.

    Args:
        size: Number of workers, at least 1.

    Returns:
        A periodic, directed topology. A worker sends one message in a step.

    Raises:
        ValueError: If `size` is not a positive integer.

    Example:
        >>> topology = one_peer_exponential(8)
        >>> topology.period, round(topology.spectral_gap, 3)
        (3, 1.0)

    Reference:
        arXiv:2110.13363.
    """
    check_integer("size", size)
    hops = [2**k for k in range((size - 1).bit_length())] or [0]
    return Topology(np.stack([(np.eye(size) + np.roll(np.eye(size), hop, axis=0)) / 2 for hop in hops]))


def erdos_renyi(size: int, probability: float, *, seed: int) -> Topology:
    """Joins any two workers with some probability, and draws again until all workers are connected.

    Use it when you want to try a method on a random graph. Avoid it with a small probability and many workers, because
    a connected graph may then not be found.

    Args:
        size: Number of workers, at least 1.
        probability: Probability that two workers are joined, in (0, 1].
        seed: Seed of the random draws, an integer, at least 0.

    Returns:
        The topology.

    Raises:
        ValueError: If an argument is out of its range, or no connected graph was found in 1,000 draws.

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
    raise ValueError(f"no connected graph of {size} workers in 1000 draws: raise probability, got {probability}")


def sequence(*topologies: Topology) -> Topology:
    """Makes a periodic topology that takes the given topologies in turn, one in each step.

    Use it when the workers' network changes in a known order. For a sequence that is connected only as a whole, make a
    `Topology` from its matrices. Avoid it for methods that need the same neighbours in each step, such as `choco`.

    Args:
        *topologies: Topologies with the same number of workers. Each is connected by itself.

    Returns:
        The periodic topology.

    Raises:
        ValueError: If there are no topologies, or their numbers of workers differ.
        TypeError: If an argument is not a `Topology`.

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
    """Joins workers in pairs, which are drawn anew for every step of a period.

    Use it when a worker should exchange values with only one other in each step. Avoid it for methods that need the
    same neighbours in each step, because it is periodic.

    Args:
        size: Number of workers, at least 1. If it is odd, one worker rests in each step.
        period: Number of steps in a period, at least 1. Draws are repeated until the pairs of a period connect all
            workers.
        seed: Seed of the random draws, an integer, at least 0.

    Returns:
        A periodic topology. A worker sends one message in a step.

    Raises:
        ValueError: If an argument is out of its range, or 1,000 draws do not connect all workers.

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
    """Makes a topology from edges between workers, as `from_graph` does from a graph."""
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
        summary="Makes a topology from any connected graph of networkx, with Metropolis weights or others.",
    ),
    Method(
        name="topology.ring",
        factory=ring,
        kind="function",
        summary="Joins each worker with the one before and the one after it, and the last with the first.",
        also_known_as=("cycle graph",),
    ),
    Method(
        name="topology.path",
        factory=path,
        kind="function",
        summary="Joins each worker with the one before and the one after it, in a row.",
        also_known_as=("chain", "line graph"),
    ),
    Method(
        name="topology.grid",
        factory=grid,
        kind="function",
        summary="Joins workers with their neighbours in a rectangle.",
        also_known_as=("mesh grid", "2D grid"),
    ),
    Method(
        name="topology.torus",
        factory=torus,
        kind="function",
        summary="Joins workers with their neighbours in a rectangle whose opposite sides are joined, too.",
        also_known_as=("2D torus",),
    ),
    Method(
        name="topology.hypercube",
        factory=hypercube,
        kind="function",
        summary="Joins workers whose numbers differ in one binary digit.",
    ),
    Method(
        name="topology.star",
        factory=star,
        kind="function",
        summary="Joins worker 0 with all others, which are joined with worker 0 only.",
    ),
    Method(
        name="topology.complete",
        factory=complete,
        kind="function",
        summary="Joins all workers with each other, so that mixing is one all-reduce.",
        also_known_as=("fully connected", "all-reduce"),
    ),
    Method(
        name="topology.binary_tree",
        factory=binary_tree,
        kind="function",
        summary="Joins workers with their parent and their two children in a tree.",
    ),
    Method(
        name="topology.circulant",
        factory=circulant,
        kind="function",
        summary="Lets each worker hear the workers at given distances before it.",
        also_known_as=("directed ring", "unidirectional ring"),
    ),
    Method(
        name="topology.exponential",
        factory=exponential,
        kind="function",
        summary="Lets each worker hear the workers 1, 2, 4, 8, ... places before it.",
        paper=_EXPONENTIAL,
        also_known_as=("static exponential graph", "ExponentialTwoGraph"),
    ),
    Method(
        name="topology.symmetric_exponential",
        factory=symmetric_exponential,
        kind="function",
        summary="Joins each worker with those whose distance from it is a power of four.",
        also_known_as=("SymmetricExponentialGraph",),
    ),
    Method(
        name="topology.one_peer_exponential",
        factory=one_peer_exponential,
        kind="function",
        summary="Lets each worker hear one other worker in each step, 1, 2, 4, ... places before it in turn.",
        paper=_EXPONENTIAL,
        also_known_as=("one-peer exponential graph", "dynamic exponential graph"),
    ),
    Method(
        name="topology.erdos_renyi",
        factory=erdos_renyi,
        kind="function",
        summary="Joins any two workers with some probability, drawn once.",
        also_known_as=("Erdős-Rényi graph", "random graph", "G(n, p)"),
    ),
    Method(
        name="topology.random_matchings",
        factory=random_matchings,
        kind="function",
        summary="Joins workers in pairs, which are drawn anew for every step of a period.",
        also_known_as=("random pairwise gossip", "randomized gossip"),
    ),
    Method(
        name="topology.sequence",
        factory=sequence,
        kind="function",
        summary="Takes the given topologies in turn, one in each step.",
        also_known_as=("time-varying topology", "dynamic topology"),
    ),
)
