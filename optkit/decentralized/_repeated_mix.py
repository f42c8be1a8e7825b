"""Several rounds of mixing in one step."""

import jax

from optkit.core.checks import check_integer
from optkit.decentralized._mixing import Mixing, links_by_round, mix
from optkit.method import Method

__all__ = ["repeated_mix"]


def repeated_mix(rounds: int) -> Mixing:
    """Makes a mixing that runs `mix` several times in a row.

    The rule, where W is the mixing matrix of the topology::

        x = W^rounds * x

    The distance to the mean shrinks by the power `rounds` of the factor of one round.

    Use it when one round of mixing is not enough, on topologies that are directed or change from step to step. Avoid it
    on a symmetric topology that does not change, because `chebyshev_mix` comes closer to the mean with as many
    messages. It sends `rounds` times as many messages as `mix`.

    Args:
        rounds: Number of rounds, at least 1.

    Returns:
        A mixing. Its `links` may have the shape (rounds, workers, workers), one array for each round.

    Raises:
        ValueError: If `rounds` is not a positive integer.

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
        summary="Mixes several times in a step, so that workers come closer to their mean.",
        also_known_as=("multiple gossip steps", "MGS", "multi-gossip"),
    ),
)
