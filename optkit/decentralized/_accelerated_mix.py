"""Accelerated mixing: Nesterov's momentum on the disagreement of the workers, for graphs that change slowly.

Metelev, Rogozin, Kovalev, Gasnikov, "Is Consensus Acceleration Possible in Decentralized Optimization over Slowly
Time-Varying Networks?", 2023, arXiv:2301.11817: it is not possible on graphs that change arbitrarily, but it can be
where a connected skeleton stays. The rule here is Nesterov's method on x'Lx / 2, whose gradient step is one round of
mixing. It was written from this idea and is not a transcription of the paper; the paper's bounds are not promised.
"""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optkit.core.checks import check_integer
from optkit.core.precision import widen
from optkit.core.workers import collectives
from optkit.decentralized._mixing import Mixing, extrapolate, links_by_round, mix, require_size
from optkit.decentralized.topology import Topology
from optkit.decentralized.topology._weights import adjacency_of, require_undirected
from optkit.method import Method, Paper

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["accelerated_mix"]


def accelerated_mix(rounds: int, skeleton: "nx.Graph | None" = None) -> Mixing:
    """Makes a mixing of several rounds with Nesterov's momentum, for graphs that change slowly.

    The rule of one round, where W is the mixing matrix of the round, z starts as x, and gap is the smallest positive
    eigenvalue of I - W over the links that never fail::

        x_new = W * z
        z = x_new + (1 - sqrt(gap)) / (1 + sqrt(gap)) * (x_new - x)
        x = x_new

    The mean over workers stays the same.

    Use it when the graph changes or links fail, but a connected part of it is always there. Links that fail should stay
    down until the last round of the step: then failures only remove terms from the disagreement. Avoid it on a graph
    that does not change, because `chebyshev_mix` is faster there with as many messages.

    Args:
        rounds: Number of rounds, at least 1. With 1 it is `mix`.
        skeleton: An undirected `networkx` graph of links that are in every step of the topology and never fail. Its
            nodes, in their order, are the workers. Default: None, all links that are in every step of the topology.

    Returns:
        A mixing for symmetric topologies without negative eigenvalues, such as `ring(8).lazy()`, and for symmetric
        links. Its `links` may have the shape (rounds, workers, workers), one array for each round. It sends as many
        messages as `mix` run `rounds` times, in float32 at least. It raises a `ValueError` for other topologies, and if
        the skeleton is not part of every step or does not join all workers.

    Raises:
        ValueError: If `rounds` is not a positive integer, or the skeleton is directed.
        TypeError: If `skeleton` is not a graph of `networkx`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> mixing = accelerated_mix(8)
        >>> over_workers = jax.vmap(lambda x: mixing(x, optkit.topology.ring(8).lazy(), "workers"), axis_name="workers")
        >>> round(float(jnp.ptp(over_workers(jnp.arange(8.0)))), 2)
        0.87

    Reference:
        arXiv:2301.11817.
    """
    check_integer("rounds", rounds)
    if skeleton is not None:
        require_undirected(skeleton, "skeleton")

    def mixing(tree, topology, axis_name, *, step: int | jax.Array = 0, links=None):
        require_size(topology, axis_name)
        gap = _gap_that_stays(topology, skeleton)
        momentum = (1 - gap**0.5) / (1 + gap**0.5)  # b, with chi = 1 / gap

        def one_round(carry, inputs):
            average, point = carry
            index, heard = inputs
            mixed = mix(point, topology, axis_name, step=step * rounds + index, links=heard)  # y_k+1
            mixed = collectives.vary_like(mixed, average)
            return (mixed, extrapolate(mixed, average, 1 + momentum)), None  # x_k+1 = (1 + b) y_k+1 - b y_k

        start = widen(tree)
        (average, _), _ = jax.lax.scan(one_round, (start, start), (jnp.arange(rounds), links_by_round(links, rounds)))
        return optax.tree.cast_like(average, tree)

    return mixing


def _gap_that_stays(topology: Topology, skeleton: "nx.Graph | None") -> float:
    """Returns the smallest positive eigenvalue of I - W over the links that never fail, or raises if there is none."""
    if not topology.is_symmetric or topology.smallest_eigenvalue < -1e-9:
        found = "is directed" if not topology.is_symmetric else f"has the eigenvalue {topology.smallest_eigenvalue:.3g}"
        raise ValueError(
            "accelerated_mix needs a symmetric topology without negative eigenvalues, such as topology.lazy(), but this"
            f" one {found}"
        )
    weights = np.min(topology.matrices, axis=0) * (1 - np.eye(topology.size))
    if skeleton is not None:
        links = adjacency_of(skeleton) != 0
        if links.shape != weights.shape or np.any(links & (weights == 0)):
            raise ValueError(
                f"the skeleton of {len(links)} workers must be part of every step of the topology of {topology.size}"
            )
        weights = weights * links
    if topology.size == 1:
        return 1.0
    gap = np.linalg.eigvalsh(np.diag(weights.sum(axis=1)) - weights)[1]
    if gap < 1e-9:
        raise ValueError("the links that never fail must join all workers, but they leave some apart")
    return float(min(gap, 1.0))


METHODS = (
    Method(
        name="accelerated_mix",
        factory=accelerated_mix,
        kind="function",
        summary="Mixes several times with Nesterov's momentum, on graphs that change slowly.",
        paper=Paper(
            "Is Consensus Acceleration Possible in Decentralized Optimization over Slowly Time-Varying Networks?",
            "Metelev, Rogozin, Kovalev, Gasnikov",
            2023,
            "2301.11817",
        ),
        also_known_as=("accelerated gossip", "accelerated consensus"),
    ),
)
