"""Sampled participation: in each round a few workers, drawn by a rule that all can follow, train and average.

De Vos, Dhasade, Kermarrec, Lavoie, Pouwelse, Sharma, "Decentralized Learning Made Practical with Client Sampling",
2023, arXiv:2302.13837, called MoDeST in its first version. Their code orders peers by a hash of name and round; here a
key and the round do.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optkit.core.checks import check_integer
from optkit.core.precision import widen
from optkit.core.types import Key
from optkit.decentralized._mixing import Mixing, require_size
from optkit.method import Method, Paper

__all__ = ["participation_mix", "sample_participants"]


def sample_participants(
    step: int | jax.Array, size: int, count: int, *, key: Key, active: jax.Array | None = None
) -> jax.Array:
    """Draws the workers that take part in a round, the same on every worker without a message.

    Workers are put in an order that key and round decide; the first ones that are alive take part.

    Args:
        step: the round, an integer.
        size: the number of workers, at least 1.
        count: how many take part, from 1 to `size`; fewer where fewer are active.
        key: an integer or a JAX key that is equal on all workers.
        active: shape (workers,), booleans; default all.

    Returns:
        Booleans of shape (workers,). Another round of the same key gives that round's participants, so that workers
        know who comes next.

    Raises:
        ValueError: if `size` or `count` is out of its range.

    Example:
        >>> sample_participants(0, 6, 2, key=0).sum().item()
        2

    Reference:
        De Vos et al., "Decentralized Learning Made Practical with Client Sampling", 2023, arXiv:2302.13837.
    """
    check_integer("size", size)
    check_integer("count", count)
    if count > size:
        raise ValueError(f"count must be at most the number of workers, {size}, got {count}")
    key = key if isinstance(key, jax.Array) else jax.random.key(key)
    order = jax.random.permutation(jax.random.fold_in(key, step), size)
    ready = jnp.ones(size, bool) if active is None else active[order]
    taken = ready & (jnp.cumsum(ready) <= count)
    return jnp.zeros(size, bool).at[order].set(taken)


def participation_mix(count: int, *, key: Key) -> Mixing:
    """Makes a mixing that hands the mean over a round's participants to those of the next round.

    All others keep what they have; what they compute meanwhile is lost when they are drawn, since the mean replaces it.
    The mean over all workers does not stay: report a participant's values. Nobody is waited for: who is not active is
    left out of the draw.

    Args:
        count: how many take part in a round, at least 1; the paper's is 10.
        key: an integer or a JAX key that is equal on all workers.

    Returns:
        A mixing for `complete` topologies; a worker is active if it hears itself, `links[i, i]`, and no other link
        counts. It sends one `all-reduce`, in float32 at least. It raises a `ValueError` for other topologies and where
        there are fewer than `count` workers.

    Raises:
        ValueError: if `count` is no positive integer.

    Example:
        >>> import optax
        >>> import optkit
        >>> tx = optkit.gossip(
        ...     optax.sgd(0.1),
        ...     optkit.topology.complete(8),
        ...     axis_name="workers",
        ...     mixing=participation_mix(3, key=0),
        ...     every=5,
        ... )

    Reference:
        De Vos et al., "Decentralized Learning Made Practical with Client Sampling", 2023, arXiv:2302.13837.
    """
    check_integer("count", count)

    def mixing(tree, topology, axis_name, *, step: int | jax.Array = 0, links=None):
        require_size(topology, axis_name)
        if not np.all(topology.matrices):
            raise ValueError("participation_mix lets any workers meet and needs complete(size), got a sparser topology")
        active = None if links is None else jnp.diagonal(links)
        senders = sample_participants(step, topology.size, count, key=key, active=active)
        receivers = sample_participants(step + 1, topology.size, count, key=key, active=active)
        worker, heard = jax.lax.axis_index(axis_name), jnp.sum(senders)

        def mean(x: Any) -> Any:
            if not jnp.issubdtype(x.dtype, jnp.inexact):
                return x
            # What absent workers hold may be NaN.
            total = jax.lax.psum(jnp.where(senders[worker], widen(x), 0), axis_name)
            average = (total / jnp.maximum(heard, 1)).astype(x.dtype)
            return jnp.where(receivers[worker] & (heard > 0), average, x)

        return jax.tree.map(mean, tree)

    return mixing


METHODS = (
    Method(
        name="participation_mix",
        factory=participation_mix,
        kind="function",
        summary="Lets a few workers, drawn in each round, train and hand their mean to those drawn next.",
        paper=Paper("Decentralized Learning Made Practical with Client Sampling", "De Vos et al.", 2023, "2302.13837"),
        also_known_as=("MoDeST", "client sampling", "decentralized learning with client sampling"),
        parts=(sample_participants,),
    ),
)
