"""RelaySum: on a tree, every worker gets the mean of all workers' parameters, those of farther ones from earlier steps.

Vogels, He, Koloskova, Lin, Karimireddy, Stich, Jaggi, "RelaySum for Decentralized Deep Learning on Heterogeneous Data",
2021, arXiv:2110.04175. The rule is that of the authors' code (epfml/relaysgd). New here: a message that is lost is
replaced by the last one of the same neighbour.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optkit.core.extra_args import require_params
from optkit.core.precision import widen
from optkit.core.trees import copy
from optkit.core.types import AxisName
from optkit.core.workers.on_workers import check_axis_name
from optkit.decentralized._gradient_tracking import RELAY
from optkit.decentralized._mixing import add_update, overwrite, require_size
from optkit.decentralized.topology import Topology, path
from optkit.decentralized.topology._topology import require_topology
from optkit.method import Method

__all__ = ["relay_sum"]


class RelaySumState(NamedTuple):
    """State of `relay_sum`.

    Attributes:
        received: for each round of messages the last one that came in it, a sum of workers' parameters or updates and
            the number of these workers, each worker's own, in float32 at least; zeros where none has come.
        start: the worker's own first parameters, in float32 at least, for the workers of whom nothing was heard yet;
            None where updates are relayed.
        inner: state of the inner optimizer, each worker's own.
    """

    received: tuple[Any, ...]
    start: Any
    inner: optax.OptState


def relay_sum(
    inner: optax.GradientTransformation, topology: Topology, *, axis_name: AxisName, relay_updates: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Runs an optimizer on each worker's own gradients and replaces parameters by the mean of all, relayed on a tree.

    A worker sends each neighbour the sum of its own updated parameters and of what its other neighbours sent it in the
    step before, so that in every step everybody's count once, those of a worker k edges away k - 1 steps late. Where
    workers' data differ there is no bias, with a constant learning rate. It comes last in a chain, since it overwrites
    parameters. Give each worker its own gradients. On trees of large diameter delays ask for a smaller learning rate,
    and the memory is one number a parameter for each neighbour of the worker that has most: on graphs that are no trees
    take `gradient_tracking`.

    Args:
        inner: an optimizer, learning rate included; its state is never mixed.
        topology: a tree, such as `path`, `star` or `binary_tree`; its weights do not matter.
        axis_name: the axis over workers.
        relay_updates: relays updates in place of updated parameters (RelaySum/Grad): all add the same ones in the end,
            but what workers once differ by stays, so that lost messages part them. Default false.

    Returns:
        An optimizer that takes the extra argument `links`, see `mix`; for a message that is not heard the last one of
        that neighbour counts again. It sends one number a parameter, and 4 bytes, to each neighbour; in the compiled
        program in as many rounds as the worker with most neighbours has.

    Raises:
        ValueError: if the topology is no tree, or `axis_name` is not one name.
        TypeError: if `topology` is no `Topology`.

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
        Vogels et al., "RelaySum for Decentralized Deep Learning on Heterogeneous Data", 2021, arXiv:2110.04175.
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
    """Swaps messages between partners; who has none, or does not hear it, keeps the last message."""
    worker = jax.lax.axis_index(axis_name)
    heard = jnp.asarray(partner != np.arange(len(partner)))[worker]
    if links is not None:
        heard = heard & links[worker, jnp.asarray(partner)[worker]]
    permutation = [(sender, receiver) for receiver, sender in enumerate(partner.tolist())]

    def swap(mine, old):
        return jnp.where(heard, jax.lax.ppermute(mine, axis_name, permutation), old)

    return jax.tree.map(swap, message, last)


def _matchings(topology: Topology) -> list[np.ndarray]:
    """Colours the edges of a tree, as few colours as there can be; gives each worker's partner, or itself, in each."""
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
        summary="Runs any optimizer on a tree of workers, along which sums of parameters are relayed.",
        paper=RELAY,
        also_known_as=("RelaySGD", "RelaySum", "RelaySum/Model", "RelaySum/Grad"),
        example={"topology": path(8), "axis_name": "workers"},
        grid=1e-1,
        needs=("axis_name",),
        golden="relaysgd",
        learning_rate=1e-3,
    ),
)
