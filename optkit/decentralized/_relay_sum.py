"""RelaySum: on a tree, every worker gets the mean of all workers' parameters, those of distant workers with a delay.

Vogels, He, Koloskova, Lin, Karimireddy, Stich, Jaggi, "RelaySum for Decentralized Deep Learning on Heterogeneous Data",
2021, arXiv:2110.04175. The rule is that of the authors' code (epfml/relaysgd). One thing is new here: a lost message is
replaced by the last one from the same neighbour.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optkit.core.extra_args import require_params
from optkit.core.overwriting import add_update, overwrite
from optkit.core.precision import widen
from optkit.core.trees import copy
from optkit.core.types import AxisName
from optkit.core.workers.on_workers import check_axis_name
from optkit.decentralized._gradient_tracking import RELAY
from optkit.decentralized._mixing import require_size
from optkit.decentralized.topology import Topology, path
from optkit.decentralized.topology._topology import require_topology
from optkit.method import Method

__all__ = ["relay_sum"]


class RelaySumState(NamedTuple):
    """State of `relay_sum`.

    Attributes:
        received: The last message of each round: a sum of workers' parameters or updates, and the number of these
            workers. Each worker has its own, in float32 at least; zeros if no message has arrived.
        start: The worker's own first parameters, in float32 at least, which stand for workers that were not heard yet.
            None if updates are relayed.
        inner: State of the inner optimizer. Each worker has its own.
    """

    received: tuple[Any, ...]
    start: Any
    inner: optax.OptState


def relay_sum(
    inner: optax.GradientTransformation, topology: Topology, *, axis_name: AxisName, relay_updates: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Runs an optimizer on each worker's own gradients, and relays parameters on a tree so that all are averaged.

    The update rule, where n is the number of workers, u_i the update of `inner`, s_ij the message from worker i to its
    neighbour j, and r_ki the message that i received from its neighbour k in the step before (zero in the first step)::

        h_i  = x_i + inner(g_i)
        s_ij = h_i + sum of r_ki over all neighbours k of i except j
        x_i  = (h_i + sum of s_ji over all neighbours j of i) / n

    So in every step the parameters of each worker count once; those of a worker k edges away are k - 1 steps old. In
    the first steps, until all others have been heard, a worker's own first parameters stand for those that are missing.
    Give each worker its own gradients, not averaged. In a chain it must be the last transformation, because it
    overwrites the parameters.

    Use it when the workers form a tree and their data differ: with a constant learning rate there is no bias. Avoid it
    when the diameter of the tree is large, because the delays require a smaller learning rate, and when a worker has
    many neighbours, because every worker stores one number per parameter for each neighbour of the worker that has
    most. On other graphs use `gradient_tracking`.

    Args:
        inner: The optimizer that is wrapped, with its learning rate. Its state is never mixed.
        topology: Which workers exchange messages, from `optkit.topology`. It must be a tree, such as `path`, `star` or
            `binary_tree`; its weights are not used.
        axis_name: Name of the axis over workers.
        relay_updates: Whether updates are relayed in place of updated parameters (RelaySum/Grad). All workers then add
            the same updates in the end, but a difference between workers stays forever once it has arisen, for example
            by a lost message. Default: False.

    Returns:
        An optimizer whose `update` takes the extra argument `links`: which messages arrive, see `mix`. If a message is
        not heard, the last one from that neighbour counts again. A worker sends one number per parameter, and 4 bytes,
        to each neighbour. The compiled program has as many rounds of messages as the worker with most neighbours has
        neighbours.

    Raises:
        ValueError: If the topology is not a tree, or `axis_name` is not one name.
        TypeError: If `topology` is not a `Topology`.

    Example:
        >>> import optkit
        >>> tx = optkit.relay_sum(optax.sgd(0.5), optkit.topology.path(3), axis_name="workers")
        >>> def train(target):
        ...     params = jnp.zeros([])
        ...     state = tx.init(params)
        ...     for _ in range(50):
        ...         updates, state = tx.update(params - target, state, params)
        ...         params = optax.apply_updates(params, updates)
        ...     return params
        >>> jax.vmap(train, axis_name="workers")(jnp.array([0.0, 0.0, 6.0])).round(3)
        Array([2., 2., 2.], dtype=float32)

    Reference:
        arXiv:2110.04175.
    """
    require_topology(topology)
    check_axis_name(axis_name)
    partners = _matchings(topology)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        received = tuple((optax.tree.zeros_like(widen(params)), jnp.zeros([], jnp.int32)) for _ in partners)
        return RelaySumState(received, None if relay_updates else copy(widen(params)), inner.init(params))

    def update_fn(updates, state, params=None, *, links=None, **extra_args):
        require_params(params, "relay_sum")
        require_size(topology, axis_name)
        updates, inner_state = inner.update(updates, state.inner, params, links=links, **extra_args)
        wide = widen(params)
        sent = optax.tree.cast_like(updates, wide) if relay_updates else jax.tree.map(add_update, wide, updates)
        own = sent, jnp.ones([], jnp.int32)
        before = functools.reduce(optax.tree.add, state.received, own)
        received = tuple(
            _exchange(optax.tree.sub(before, last), last, partner, axis_name, links)
            for last, partner in zip(state.received, partners, strict=True)
        )
        total, count = functools.reduce(optax.tree.add, received, own)
        if relay_updates:
            new = jax.tree.map(lambda p, t: p + t / topology.size, wide, total)
        else:
            missing = topology.size - count
            new = jax.tree.map(lambda t, x: (t + missing.astype(x.dtype) * x) / topology.size, total, state.start)
        return overwrite(new, params), RelaySumState(received, state.start, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _exchange(message: Any, last: Any, partner: np.ndarray, axis_name: AxisName, links: jax.Array | None) -> Any:
    """Swaps messages between partners. A worker without a partner, or that does not hear it, keeps the last message."""
    worker = jax.lax.axis_index(axis_name)
    heard = jnp.asarray(partner != np.arange(len(partner)))[worker]
    if links is not None:
        heard = heard & jnp.asarray(links)[worker, jnp.asarray(partner)[worker]]
    permutation = [(sender, receiver) for receiver, sender in enumerate(partner.tolist())]

    def swap(mine, old):
        return jnp.where(heard, jax.lax.ppermute(mine, axis_name, permutation), old)

    return jax.tree.map(swap, message, last)


def _matchings(topology: Topology) -> list[np.ndarray]:
    """Colours the edges of a tree with as few colours as possible, and returns each worker's partner in each colour.

    A worker without an edge of a colour is its own partner.
    """
    import networkx as nx

    weights = topology.matrices[0] * (1 - np.eye(topology.size))
    graph = nx.from_numpy_array(weights != 0)
    if topology.period > 1 or not np.array_equal(weights != 0, weights.T != 0) or not nx.is_tree(graph):
        raise ValueError(
            f"relay_sum needs a topology that is a tree, such as path, star or binary_tree, got {topology.size} workers"
            f" joined by {graph.number_of_edges()} edges"
            + (f" in the first of {topology.period} steps" if topology.period > 1 else "")
        )
    partners = [np.arange(topology.size) for _ in range(max(dict(graph.degree).values()))]
    to_parent = {0: -1}
    for parent, children in nx.bfs_successors(graph, 0):
        free = (round_ for round_ in range(len(partners)) if round_ != to_parent[parent])
        for child, round_ in zip(children, free, strict=False):
            to_parent[child] = round_
            partners[round_][[parent, child]] = child, parent
    return partners


METHODS = (
    Method(
        name="relay_sum",
        factory=relay_sum,
        kind="wrapper",
        summary="Runs any optimizer on a tree of workers, and relays sums of parameters along its edges.",
        paper=RELAY,
        also_known_as=("RelaySGD", "RelaySum", "RelaySum/Model", "RelaySum/Grad"),
        example={"topology": path(8), "axis_name": "workers"},
        grid=1e-1,
        needs=("axis_name",),
        golden="relaysgd",
        learning_rate=1e-3,
    ),
)
