"""Robust mixing: in gossip, each worker aggregates what it receives by a robust rule in place of a weighted mean.

Any aggregator without state can be used. Two of them start from a worker's own value: He, Karimireddy, Jaggi,
"Byzantine-Robust Decentralized Learning via ClippedGossip", 2022, arXiv:2202.01545, and Farhadkhani et al., "Robust
Collaborative Learning with Linear Gradient Overhead", 2022, arXiv:2209.10931.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from optax.experimental import aggregating

from optkit.core.complex_numbers import refuse_complex
from optkit.decentralized._mixing import Mixing, require_size
from optkit.method import Method
from optkit.robust_aggregation._checks import is_stateless
from optkit.robust_aggregation._self_centered_clip import CLIPPED_GOSSIP

__all__ = ["robust_mix"]


def robust_mix(aggregator: aggregating.Aggregator) -> Mixing:
    """Makes a mixing from an aggregator, which each worker applies to its own value and to those of its neighbours.

    The rule, for the values x_j that worker i receives from its neighbours j::

        x_i = aggregator(x_i and all x_j)

    The topology says which workers exchange values; its weights are ignored.

    Use it when some workers of a decentralized method may send anything. Avoid it when all workers are trusted, because
    it changes the mean over workers, which `mix` keeps. A worker sends one message, a `collective-permute`, for each of
    `topology.rounds`; on a complete topology, all messages are one `all-gather`.

    Args:
        aggregator: A rule for stacked rows, without state, for example `trimmed_mean(1)`. It receives the extra
            arguments `active`, which rows were received, and `own`, the worker's own value, from which
            `nearest_neighbor_average` and `self_centered_clip` start.

    Returns:
        A mixing. It leaves out the messages that fail according to `links`; a worker always keeps its own value.

    Raises:
        ValueError: If the aggregator has a state.

    Example:
        >>> import optkit
        >>> mixing = optkit.robust_mix(optkit.trimmed_mean(1))
        >>> over_workers = jax.vmap(lambda x: mixing(x, optkit.topology.ring(4), "workers"), axis_name="workers")
        >>> over_workers(jnp.array([1.0, 2.0, jnp.nan, 3.0]))
        Array([2., 2., 3., 3.], dtype=float32)

    Reference:
        arXiv:2202.01545
    """
    if not is_stateless(aggregator):
        raise ValueError("robust_mix needs an aggregator without state, for example trimmed_mean(1)")

    def mixing(tree, topology, axis_name, *, step: int | jax.Array = 0, links=None):
        require_size(topology, axis_name)
        refuse_complex(tree, "robust_mix")
        leaves, treedef = jax.tree.flatten(tree)
        own = {i: x for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.floating)}

        def exchange(index):
            def aggregate(own):
                rows, active = _hear(own, topology, index, axis_name, links)
                return aggregator.update(rows, aggregator.init(own), None, active=active, own=own)[0]

            return aggregate

        branches = [exchange(index) for index in range(topology.period)]
        mixed: Any = branches[0](own) if len(branches) == 1 else jax.lax.switch(step % len(branches), branches, own)
        return jax.tree.unflatten(treedef, [mixed.get(i, x) for i, x in enumerate(leaves)])

    return mixing


def _hear(own, topology, index, axis_name, links):
    """Stacks what a worker receives in one step of a period, and says which rows are messages; None if all are."""
    matrix, worker = topology.matrices[index], jax.lax.axis_index(axis_name)
    if np.all(matrix + np.eye(topology.size) != 0):
        rows = jax.tree.map(lambda x: jax.lax.all_gather(x, axis_name), own)
        return rows, None if links is None else jnp.asarray(links)[worker] | (jnp.arange(topology.size) == worker)
    rounds = topology.rounds[index]
    senders = np.array([[sender for sender, _ in permutation] for permutation, _ in rounds]).reshape(len(rounds), -1)
    heard = np.array([weights != 0 for _, weights in rounds]).reshape(len(rounds), -1)

    def stack(x):
        return jnp.stack([x, *(jax.lax.ppermute(x, axis_name, permutation) for permutation, _ in rounds)])

    rows = jax.tree.map(stack, own)
    if links is None and np.all(heard):
        return rows, None
    heard = jnp.asarray(heard)[:, worker]
    if links is not None:
        heard = heard & jnp.asarray(links)[worker, jnp.asarray(senders)[:, worker]]
    return rows, jnp.concatenate([jnp.ones(1, bool), heard])


METHODS = (
    Method(
        name="robust_mix",
        factory=robust_mix,
        kind="function",
        summary="A mixing for gossip in which each worker aggregates what it receives by a robust rule.",
        paper=CLIPPED_GOSSIP,
    ),
)
