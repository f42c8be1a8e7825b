"""Several rounds of mixing in a step."""

import jax

from optkit.core.checks import check_integer
from optkit.decentralized._mixing import Mixing, links_by_round, mix
from optkit.method import Method

__all__ = ["repeated_mix"]


def repeated_mix(rounds: int) -> Mixing:
    """Makes a mixing of several ones: the distance to the mean shrinks by that power, messages are as many times more.

    On symmetric topologies `chebyshev_mix` comes closer with as many messages.

    Args:
        rounds: how many, at least 1.

    Returns:
        A mixing; its `links` may be of shape (rounds, workers, workers), one for each round.

    Raises:
        ValueError: if `rounds` is no positive integer.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from optkit.decentralized.topology import ring
        >>> over_workers = jax.vmap(lambda x: repeated_mix(2)(x, ring(3), "workers"), axis_name="workers")
        >>> over_workers(jnp.array([0.0, 0.0, 3.0]))
        Array([1., 1., 1.], dtype=float32)
    """
    check_integer("rounds", rounds)

    def mixing(tree, topology, axis_name, *, step: int | jax.Array = 0, links=None):
        by_round = links_by_round(links, rounds)
        for index in range(rounds):
            heard = None if by_round is None else by_round[index]
            tree = mix(tree, topology, axis_name, step=step * rounds + index, links=heard)
        return tree

    return mixing


METHODS = (
    Method(
        name="repeated_mix",
        factory=repeated_mix,
        kind="function",
        summary="Mixes several times in a step: the distance to the mean shrinks by that power.",
        also_known_as=("multiple gossip steps", "MGS", "multi-gossip"),
    ),
)
