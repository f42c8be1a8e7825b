"""The exchange of compressed messages between neighbours, and consensus by compressed differences.

The rule of consensus is that of CHOCO: Koloskova, Stich, Jaggi, "Decentralized Stochastic Optimization and Gossip
Algorithms with Compressed Communication", 2019, arXiv:1902.00340. A worker does not keep copies of its neighbours'
values, but one running sum of the differences between their messages and its own.
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
    """State of the consensus by compressed differences.

    Attributes:
        known: Sum of the worker's messages so far, which is what neighbours know of its value, in float32 at least.
            Each worker has its own.
        gap: Weighted mean of the neighbours' `known`, minus the worker's own. Each worker has its own; their mean over
            workers is zero.
        compressor: State of the compressor, which is equal on all workers for the compressors of optkit.
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
    """Sends compressed messages to the neighbours and adds up the differences between theirs and the worker's own.

    In the compiled program a worker sends the compressed message once in each of the topology's rounds.

    Args:
        message: What the compressor has made of a tree.
        like: A tree with the shapes and dtypes of the decompressed message.
        compressor: The compressor, which decompresses the messages.
        topology: Which workers exchange messages, from `optkit.topology`; the same in each step, see
            `require_constant`.
        axis_name: Name of the axis over workers.
        links: Which messages arrive, as in `mix`. A message that is not heard is replaced by the worker's own, and may
            be NaN.

    Returns:
        The worker's own message `q_i`, decompressed, and `sum_j W_ij (q_j - q_i)`.

    Raises:
        ValueError: If the axis and the topology have different numbers of workers.

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
            heard = heard & jnp.asarray(links)[worker, senders[worker]]
        weight = jnp.asarray(weights)[worker]

        def add(total, theirs, mine, heard=heard, weight=weight):
            return total + jnp.where(heard, weight.astype(mine.dtype) * (widen(theirs) - mine), 0)

        change = jax.tree.map(add, change, compressor.decompress(received, like), own)
    return own, change


def require_constant(topology: Topology, axis_name: AxisName, method: str) -> None:
    """Raises an error for periodic topologies, because running sums need the same neighbours in each step.

    Raises:
        ValueError: If the topology's period is more than one step, or `axis_name` is not one name.
        TypeError: If `topology` is not a `Topology`.
    """
    require_topology(topology)
    check_axis_name(axis_name)
    if topology.period > 1:
        raise ValueError(
            f"{method} keeps running sums of its neighbours' messages and needs the same neighbours in each step, got a"
            f" topology of period {topology.period}"
        )


def init_consensus(params: Any, compressor: Compressor) -> CompressedConsensusState:
    """Returns the state before the first message."""
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
    """Sends what neighbours do not know of a value yet, compressed, and moves the value towards theirs.

    Args:
        tree: One worker's value.
        state: What is known of it.
        compressor: Compresses the difference.
        topology: Which workers exchange messages, from `optkit.topology`; the same in each step.
        axis_name: Name of the axis over workers.
        gamma: Size of the step towards the neighbours' values.
        links: Which messages arrive, as in `mix`.

    Returns:
        The value after the step, and the next state. The mean over workers stays the same.
    """
    difference = optax.tree.sub(tree, state.known)
    message, compressor_state = compressor.compress(difference, state.compressor)  # Q(x - xhat)
    own, change = exchange(message, difference, compressor, topology, axis_name, links=links)
    known = optax.tree.add(state.known, own)  # xhat <- xhat + Q
    gap = optax.tree.add(state.gap, change)  # of W xhat - xhat
    moved = jax.tree.map(lambda x, d: x + jnp.asarray(gamma, x.dtype) * d, tree, gap)  # x + gamma (W xhat - xhat)
    return moved, CompressedConsensusState(known=known, gap=gap, compressor=compressor_state)
