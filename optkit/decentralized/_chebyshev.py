"""Chebyshev mixing: several rounds, weighted so that the distance to the mean shrinks as fast as possible.

Scaman, Bach, Bubeck, Lee, Massoulié, "Optimal Algorithms for Smooth and Strongly Convex Distributed Optimization in
Networks", 2017, arXiv:1702.08704. The paper has a polynomial of the Laplacian. Here it is a polynomial of a mixing
matrix W, scaled by its contraction, and divided by its value at one in each round, so that no number grows with the
rounds.
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
    """Makes a mixing of several rounds that are weighted by Chebyshev's polynomial.

    The rule, where W is the mixing matrix, rho is `topology.contraction` and T is Chebyshev's polynomial of degree
    `rounds`::

        x = T(W / rho) / T(1 / rho) * x

    The mean over workers stays the same. The number of rounds needed to come near the mean grows with the inverse
    square root of the spectral gap; for `repeated_mix` it grows with the inverse. On a ring it grows with the number of
    workers instead of its square.

    Use it when the topology is symmetric and does not change, and one round of mixing is not enough. Avoid it when the
    graph changes or `links` fail, because the distance from the mean may then grow (the mean itself still stays the
    same); use `accelerated_mix` there.

    Args:
        rounds: Number of rounds, at least 1. With 1 it is `mix`.

    Returns:
        A mixing for symmetric topologies that do not change; it raises a `ValueError` for other topologies. It sends as
        many messages as `mix` run `rounds` times, in float32 at least; on a complete topology as many as one `mix`.

    Raises:
        ValueError: If `rounds` is not a positive integer.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> mixing = chebyshev_mix(2)
        >>> over_workers = jax.vmap(lambda x: mixing(x, optkit.topology.ring(5), "workers"), axis_name="workers")
        >>> round(float(jnp.ptp(over_workers(jnp.arange(5.0)))), 2)
        0.7

    Reference:
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
                    f"a sequence of {topology.period}: use accelerated_mix instead"
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
        summary="Mixes several times, weighted by Chebyshev's polynomial to come as near to the mean as possible.",
        paper=Paper(
            "Optimal Algorithms for Smooth and Strongly Convex Distributed Optimization in Networks",
            "Scaman et al.",
            2017,
            "1702.08704",
        ),
        also_known_as=("Chebyshev gossip", "Chebyshev acceleration", "accelerated gossip"),
    ),
)
