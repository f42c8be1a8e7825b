"""Sampled participation: in each round a few workers, drawn by a rule that all workers know, train and average.

De Vos, Dhasade, Kermarrec, Lavoie, Pouwelse, Sharma, "Decentralized Learning Made Practical with Client Sampling",
2023, arXiv:2302.13837, called MoDeST in its first version. The authors' code orders workers by a hash of name and
round; here the order follows from a key and the round.
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
    """Draws the workers that take part in a round, the same on every worker and without a message.

    The key and the round decide on an order of the workers. The first `count` active workers in this order take part.

    Use it when you want to know who takes part in a round, also in a later one, because every worker can compute it.

    Args:
        step: Number of the round, an integer.
        size: Number of workers, at least 1.
        count: Number of workers that take part, from 1 to `size`. If fewer are active, all of these take part.
        key: Seed of the random draws, an integer or a JAX key. Must be equal on all workers.
        active: Which workers are active, booleans of shape (workers,). Default: all.

    Returns:
        Booleans of shape (workers,).

    Raises:
        ValueError: If `size` or `count` is out of its range.

    Example:
        >>> sample_participants(0, 6, 2, key=0).sum().item()
        2

    Reference:
        arXiv:2302.13837.
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
    """Makes a mixing that hands the mean over a round's participants to the participants of the next round.

    The rule, where P_t are the workers that `sample_participants` draws for round t::

        x_i = mean of x_j over all j in P_t, if i is in P_(t+1); x_i otherwise

    All other workers keep their parameters. What they compute meanwhile is lost when they are drawn, because the mean
    replaces it. The mean over all workers changes, so report the parameters of a participant.

    Use it when any two workers can exchange messages, but only some of them should train at the same time. No worker
    waits for an inactive one, because inactive workers are not drawn. Avoid it when neighbours only can be reached, or
    when all workers compute in every step anyway, because the work of those that are not drawn is lost.

    Args:
        count: Number of workers that take part in a round, at least 1. The paper has 10.
        key: Seed of the random draws, an integer or a JAX key. Must be equal on all workers.

    Returns:
        A mixing for `complete` topologies; it raises a `ValueError` for other topologies, and if there are fewer than
        `count` workers. A worker is active if it hears itself, `links[i, i]`; no other link counts. It sends one
        `all-reduce`, in float32 at least.

    Raises:
        ValueError: If `count` is not a positive integer.

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
        arXiv:2302.13837.
    """
    check_integer("count", count)

    def mixing(tree, topology, axis_name, *, step: int | jax.Array = 0, links=None):
        require_size(topology, axis_name)
        if not np.all(topology.matrices):
            raise ValueError("participation_mix needs a topology that joins all workers, such as complete(size)")
        active = None if links is None else jnp.diagonal(links)
        senders = sample_participants(step, topology.size, count, key=key, active=active)
        receivers = sample_participants(step + 1, topology.size, count, key=key, active=active)
        worker, heard = jax.lax.axis_index(axis_name), jnp.sum(senders)

        def mean(x: Any) -> Any:
            if not jnp.issubdtype(x.dtype, jnp.inexact):
                return x
            # The values of absent workers may be NaN.
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
        summary="Averages a few workers, drawn in each round, and hands their mean to those drawn next.",
        paper=Paper("Decentralized Learning Made Practical with Client Sampling", "De Vos et al.", 2023, "2302.13837"),
        also_known_as=("MoDeST", "client sampling", "decentralized learning with client sampling"),
        parts=(sample_participants,),
    ),
)
