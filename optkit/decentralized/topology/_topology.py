"""Topologies: which workers exchange messages, the weights of the messages, and the permutations that carry them.

A mixing matrix has the receivers' convention, `x_i <- sum_j W[i, j] x_j`. Its rows and columns sum to one, so mixing
keeps the mean over workers.
"""

import dataclasses
import functools
import warnings
from typing import Any, NamedTuple

import numpy as np

from optkit.method import Method

__all__ = ["Topology"]

_ROUNDING = 1e-9


class Round(NamedTuple):
    """Messages that travel at the same time: each worker sends to one other worker, or keeps its own value.

    Attributes:
        permutation: Pairs of sender and receiver, one for each worker.
        weights: Weight of each receiver's message, 0 if there is none.
    """

    permutation: tuple[tuple[int, int], ...]
    weights: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Topology:
    """A mixing matrix, or a periodic sequence of mixing matrices.

    Use it when you have a mixing matrix of your own. For usual graphs see `ring`, `exponential` and others, and for a
    `networkx` graph `from_graph`.

    Attributes:
        matrices: Mixing matrices, shape (period, workers, workers). The entry `[t, i, j]` is the weight that worker i
            gives to the message of worker j in step t of a period. Rows and columns sum to one. Negative weights are
            allowed, with a warning. The topology stores a copy in float64 that is read-only.

    Raises:
        ValueError: If a matrix is not square, not real or not finite, a row or a column does not sum to one, or the
            exchanges of a period do not bring all workers together.

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
                f"these exchanges never bring all workers together: ||W - 11'/n|| is {self.contraction:.6g} and must be"
                " less than 1. The graph is not connected, or it is bipartite and no worker weighs its own value"
            )

    @property
    def size(self) -> int:
        """The number of workers."""
        return self.matrices.shape[1]

    @property
    def period(self) -> int:
        """The number of steps after which the exchanges repeat."""
        return self.matrices.shape[0]

    @functools.cached_property
    def contraction(self) -> float:
        """The largest factor by which a period multiplies the workers' distance from their mean, `||W - 11'/n||_2`.

        Here W is the product of the matrices of a period. All eigenvalues count, negative ones too.
        """
        product = functools.reduce(lambda product, matrix: matrix @ product, self.matrices)
        return float(np.linalg.norm(product - 1 / self.size, 2))

    @property
    def spectral_gap(self) -> float:
        """One minus `contraction`."""
        return 1 - self.contraction

    @functools.cached_property
    def smallest_eigenvalue(self) -> float:
        """The smallest eigenvalue of the matrices of all steps; for directed ones, of their symmetric parts.

        Example:
            >>> from optkit import topology
            >>> round(topology.ring(4).smallest_eigenvalue, 3)
            -0.333
        """
        return float(np.linalg.eigvalsh((self.matrices + self.matrices.swapaxes(1, 2)) / 2).min())

    @property
    def is_symmetric(self) -> bool:
        """Whether any two workers give each other's messages the same weight."""
        return np.allclose(self.matrices, self.matrices.swapaxes(1, 2), rtol=0, atol=_ROUNDING)

    @functools.cached_property
    def rounds(self) -> tuple[tuple[Round, ...], ...]:
        """The permutations that carry the messages of each step of a period, as few as possible.

        Their number is the largest number of messages that one worker sends or receives. By König's theorem the edges
        of a bipartite graph, here senders and receivers, can be coloured with so few colours.
        """
        return tuple(_rounds(matrix) for matrix in self.matrices)

    @property
    def messages(self) -> np.ndarray:
        """The number of messages that each worker sends, shape (period, workers)."""
        return np.sum(without_diagonal(self.matrices) != 0, axis=1)

    def lazy(self) -> "Topology":
        """Returns the topology `(I + W) / 2`, which has no negative eigenvalues if W is symmetric.

        Use it when a method, such as `exact_diffusion` or `accelerated_mix`, refuses a topology because of its
        eigenvalues. Avoid it otherwise, because workers usually come together more slowly on it.

        Example:
            >>> from optkit import topology
            >>> round(topology.ring(4).lazy().contraction, 3)
            0.667
        """
        return Topology((np.eye(self.size) + self.matrices) / 2)


def require_topology(topology: Any, name: str = "topology") -> None:
    """Raises an error unless an argument is a topology.

    Args:
        topology: The argument.
        name: The argument's name, for the message.

    Raises:
        TypeError: If it is not a `Topology`, but for example a matrix or a graph.

    Example:
        >>> from optkit import topology
        >>> require_topology(topology.ring(4))
    """
    if not isinstance(topology, Topology):
        raise TypeError(
            f"{name} must be a Topology, such as ring(8), from_graph(graph) or Topology(matrices), got"
            f" {type(topology).__name__}"
        )


def without_diagonal(matrices: np.ndarray) -> np.ndarray:
    return matrices * (1 - np.eye(matrices.shape[-1]))


def _rounds(matrix: np.ndarray) -> tuple[Round, ...]:
    """Colours the messages of one step, so that all of one colour have different senders and different receivers."""
    import networkx as nx

    size = len(matrix)
    offsets = np.flatnonzero([np.any(np.diag(np.roll(matrix, -k, axis=0))) for k in range(size)])
    messages = (without_diagonal(matrix) != 0).astype(int).T  # [sender, receiver]
    degree = int(max(messages.sum(axis=0).max(), messages.sum(axis=1).max()))
    if np.count_nonzero(offsets) == degree:  # a circulant graph: its offsets, for which weights are equal
        senders = [np.arange(size) - k for k in offsets if k]
        return tuple(_round(without_diagonal(matrix), np.mod(sender, size)) for sender in senders)
    remaining = messages + _fill(degree - messages.sum(axis=1), degree - messages.sum(axis=0))
    unsent, rounds = without_diagonal(matrix), []
    for _ in range(degree):
        # A regular bipartite graph has a perfect matching, and without it is regular again.
        graph = nx.Graph()
        graph.add_edges_from((sender, size + receiver) for sender, receiver in zip(*np.nonzero(remaining), strict=True))
        matching = nx.bipartite.hopcroft_karp_matching(graph, range(size))
        sender = np.array([matching[size + receiver] for receiver in range(size)])
        remaining[sender, np.arange(size)] -= 1
        rounds.append(_round(unsent, sender))
        unsent[np.arange(size), sender] = 0  # a later message between the same two has no weight
    return tuple(rounds)


def _round(weights: np.ndarray, sender: np.ndarray) -> Round:
    receiver = np.arange(len(weights))
    weights_of_receivers = weights[receiver, sender]
    weights_of_receivers.setflags(write=False)
    return Round(tuple(zip(sender.tolist(), receiver.tolist(), strict=True)), weights_of_receivers)


def _fill(senders: np.ndarray, receivers: np.ndarray) -> np.ndarray:
    """Adds messages without weight for workers that send or receive fewer than others, to themselves if possible."""
    kept = np.minimum(senders, receivers)
    fill = np.diag(kept)
    missing_senders = np.repeat(np.arange(len(senders)), senders - kept)
    missing_receivers = np.repeat(np.arange(len(receivers)), receivers - kept)
    np.add.at(fill, (missing_senders, missing_receivers), 1)
    return fill


METHODS = (
    Method(
        name="topology.Topology",
        factory=Topology,
        kind="function",
        summary="Any doubly stochastic mixing matrix, or a sequence of them, with the messages that carry it out.",
        also_known_as=("mixing matrix", "gossip matrix", "communication graph", "time-varying topology"),
    ),
)
