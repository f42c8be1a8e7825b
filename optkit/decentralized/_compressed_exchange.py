"""The exchange of compressed messages between neighbours, and consensus by compressed differences.

The rule of consensus is CHOCO's: Koloskova, Stich, Jaggi, "Decentralized Stochastic Optimization and Gossip Algorithms
with Compressed Communication", 2019, arXiv:1902.00340. In place of the neighbours' copies a worker keeps one running
sum of how their messages differ from its own.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.compressors import Compressor
from optkit.core.precision import widen
from optkit.core.types import AxisName
from optkit.core.workers.on_workers import check_axis_name
from optkit.decentralized._mixing import require_size
from optkit.decentralized.topology import Topology
from optkit.decentralized.topology._topology import require_topology


class CompressedConsensusState(NamedTuple):
    """What a worker and its neighbours know of a value of which they were sent compressed differences.

    Attributes:
        known: what the worker's messages add up to, in float32 at least; each worker's own.
        gap: by how much the weighted mean of what all its neighbours' messages add up to exceeds `known`; each worker's
            own, of mean zero over workers.
        compressor: state of the compressor; equal on all workers for those of optkit.
    """

    known: Any
    gap: Any
    compressor: Any


def exchange(
    message: Any,
    like: Any,
    compressor: Compressor,
    topology: Topology,
    axis_name: AxisName,
    *,
    links: jax.Array | None = None,
) -> tuple[Any, Any]:
    """Sends compressed messages to the neighbours and adds up how theirs differ from one's own.

    In the compiled program a worker sends the message, as it is, once for each of the topology's rounds.

    Args:
        message: what the compressor has made of a tree.
        like: a tree of the shapes and dtypes of what it stands for.
        compressor: what decompresses.
        topology: who hears whom; the same in each step, see `require_constant`.
        axis_name: the axis over workers.
        links: as in `mix`: what is not heard counts like one's own, and may be NaN.

    Returns:
        One's own message `q_i`, decompressed, and `sum_j W_ij (q_j - q_i)`.

    Raises:
        ValueError: if the axis has another size than the topology.

    Example:
        >>> from optkit.compressors import identity
        >>> from optkit.decentralized.topology import ring
        >>> def differences(x):
        ...     return exchange(x, x, identity(), ring(4), "workers")[1]
        >>> jax.vmap(differences, axis_name="workers")(jnp.array([0.0, 0.0, 3.0, 0.0]))
        Array([ 0.,  1., -2.,  1.], dtype=float32)
    """
    require_size(topology, axis_name)
    worker, own = jax.lax.axis_index(axis_name), widen(compressor.decompress(message, like))
    change = optax.tree.zeros_like(own)
    for permutation, weights in topology.rounds[0]:
        received = jax.tree.map(lambda x, p=permutation: jax.lax.ppermute(x, axis_name, p), message)
        heard = jnp.asarray(weights != 0)[worker]
        if links is not None:
            senders = jnp.array([sender for sender, _ in permutation])
            heard = heard & links[worker, senders[worker]]
        weight = jnp.asarray(weights)[worker]

        def add(total, theirs, mine, heard=heard, weight=weight):
            return total + jnp.where(heard, weight.astype(mine.dtype) * (widen(theirs) - mine), 0)

        change = jax.tree.map(add, change, compressor.decompress(received, like), own)
    return own, change


def require_constant(topology: Topology, axis_name: AxisName, method: str) -> None:
    """Raises for periodic topologies: running sums of messages are sums over one set of neighbours.

    Raises:
        ValueError: if the topology's period is more than one step, or `axis_name` is not one name.
        TypeError: if it is no topology.
    """
    require_topology(topology)
    check_axis_name(axis_name)
    if topology.period > 1:
        raise ValueError(
            f"{method} keeps running sums of what its neighbours sent and needs the same neighbours in each step, got a"
            f" topology of period {topology.period}"
        )


def init_consensus(params: Any, compressor: Compressor) -> CompressedConsensusState:
    """Begins with nothing sent."""
    known, gap = optax.tree.zeros_like(params), optax.tree.zeros_like(params)
    return CompressedConsensusState(known=known, gap=gap, compressor=compressor.init(params))


def compressed_consensus(
    tree: Any,
    state: CompressedConsensusState,
    compressor: Compressor,
    topology: Topology,
    axis_name: AxisName,
    gamma: jax.typing.ArrayLike,
    links: jax.Array | None,
) -> tuple[Any, CompressedConsensusState]:
    """Sends how a value differs from what is known of it, compressed, and moves it towards the neighbours' values.

    Args:
        tree: one worker's value.
        state: what is known of it.
        compressor: of the difference.
        topology: who hears whom, the same in each step.
        axis_name: the axis over workers.
        gamma: how far it moves.
        links: as in `mix`.

    Returns:
        The value, moved, and the next state. Means over workers stay.
    """
    difference = optax.tree.sub(tree, state.known)
    message, compressor_state = compressor.compress(difference, state.compressor)  # Q(x - xhat)
    own, change = exchange(message, difference, compressor, topology, axis_name, links=links)
    known = optax.tree.add(state.known, own)  # xhat <- xhat + Q
    gap = optax.tree.add(state.gap, change)  # of W xhat - xhat
    moved = jax.tree.map(lambda x, d: x + jnp.asarray(gamma, x.dtype) * d, tree, gap)  # x + gamma (W xhat - xhat)
    return moved, CompressedConsensusState(known=known, gap=gap, compressor=compressor_state)
