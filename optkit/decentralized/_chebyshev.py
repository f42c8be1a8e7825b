"""Chebyshev mixing: several rounds whose weights alternate so that the distance to the mean shrinks fastest.

Scaman, Bach, Bubeck, Lee, Massoulié, "Optimal Algorithms for Smooth and Strongly Convex Distributed Optimization in
Networks", 2017, arXiv:1702.08704. Their polynomial of the Laplacian is written here for a mixing matrix W, scaled by
its contraction, and divided by its value at one in each round, so that nothing grows with the number of rounds.
"""

import jax
import numpy as np
import optax

from optkit.core.checks import check_integer
from optkit.core.precision import widen
from optkit.core.workers import collectives
from optkit.decentralized._mixing import Mixing, extrapolate, links_by_round, mix, require_size
from optkit.method import Method, Paper

__all__ = ["chebyshev_mix"]


def chebyshev_mix(rounds: int) -> Mixing:
    """Makes a mixing of several rounds with Chebyshev's polynomial, `T_K(W / rho) / T_K(1 / rho)`.

    Here rho is `topology.contraction`. The rounds that it takes to come near the mean grow with the inverse root of the
    spectral gap, where those of `repeated_mix` grow with its inverse: on a ring with the number of workers, not with
    its square. The mean over workers stays. Do not take it where graphs change, there is `accelerated_mix`: if `links`
    fail, the mean still stays, but the distance from it may grow.

    Args:
        rounds: how many, at least 1; one is `mix`.

    Returns:
        A mixing for symmetric topologies that do not change; messages are float32 at least, as many as in so many
        `mix`, on a complete topology as in one. It raises a `ValueError` for other topologies.

    Raises:
        ValueError: if `rounds` is no positive integer.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> mixing = chebyshev_mix(2)
        >>> over_workers = jax.vmap(lambda x: mixing(x, optkit.topology.ring(5), "workers"), axis_name="workers")
        >>> round(float(jnp.ptp(over_workers(jnp.arange(5.0)))), 2)
        0.7

    Reference:
        Scaman et al., "Optimal Algorithms for Smooth and Strongly Convex Distributed Optimization in Networks", 2017,
        arXiv:1702.08704.
    """
    check_integer("rounds", rounds)

    def mixing(tree, topology, axis_name, *, step: int | jax.Array = 0, links=None):
        del step  # the topology does not change
        require_size(topology, axis_name)
        if topology.period > 1 or not topology.is_symmetric:
            raise ValueError(
                "chebyshev_mix needs one symmetric topology, got "
                + (
                    f"a sequence of {topology.period}: take accelerated_mix"
                    if topology.period > 1
                    else "a directed one"
                )
            )
        rho = topology.contraction
        weights, ratio = [], rho  # the ratio is c_k-1 / c_k
        for _ in range(rounds - 1 if rho > 1e-12 else 0):
            weights.append(2 / (2 - rho * ratio))
            ratio = rho * weights[-1] / 2

        def one_round(carry, inputs):
            previous, current = carry
            weight, heard = inputs
            mixed = mix(current, topology, axis_name, links=heard)
            return (current, extrapolate(mixed, previous, weight)), None  # y_k+1 / c_k+1

        start, by_round = widen(tree), links_by_round(links, rounds)
        first, others = (None, None) if by_round is None else (by_round[0], by_round[1 : 1 + len(weights)])
        mixed = collectives.vary_like(mix(start, topology, axis_name, links=first), start)  # y_1 / c_1
        (_, current), _ = jax.lax.scan(one_round, (start, mixed), (np.array(weights), others))
        return optax.tree.cast_like(current, tree)

    return mixing


METHODS = (
    Method(
        name="chebyshev_mix",
        factory=chebyshev_mix,
        kind="function",
        summary="Mixes several times with the weights of Chebyshev's polynomial, which come nearest to the mean.",
        paper=Paper(
            "Optimal Algorithms for Smooth and Strongly Convex Distributed Optimization in Networks",
            "Scaman et al.",
            2017,
            "1702.08704",
        ),
        also_known_as=("Chebyshev gossip", "Chebyshev acceleration", "accelerated gossip"),
    ),
)
