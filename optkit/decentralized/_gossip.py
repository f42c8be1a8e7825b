"""Gossip: each worker takes a step of its own optimizer and mixes its parameters with those of its neighbours.

Lian, Zhang, Zhang, Hsieh, Zhang, Liu, "Can Decentralized Algorithms Outperform Centralized Algorithms?", 2017,
arXiv:1705.09056. Their decentralized SGD combines before it adapts (`order="cta"`). Chen, Sayed, "Diffusion Adaptation
Strategies for Distributed Optimization and Learning over Networks", 2011, arXiv:1111.0034, give both orders their
names.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_option, check_period
from optkit.core.extra_args import require_params
from optkit.core.overwriting import add_update, overwrite
from optkit.core.precision import widen
from optkit.core.types import AxisName
from optkit.core.workers import collectives
from optkit.decentralized._chebyshev import chebyshev_mix
from optkit.decentralized._mixing import Mixing, choose_mixing
from optkit.decentralized.topology import Topology, ring
from optkit.method import Method, Paper, Variant

__all__ = ["gossip"]

Order = Literal["atc", "cta"]


class GossipState(NamedTuple):
    """State of `gossip`.

    Attributes:
        count: Number of updates so far, equal on all workers.
        inner: State of the inner optimizer. Each worker has its own.
    """

    count: jax.typing.ArrayLike
    inner: optax.OptState


def gossip(
    inner: optax.GradientTransformation,
    topology: Topology,
    *,
    axis_name: AxisName,
    mixing: Mixing | None = None,
    order: Order = "atc",
    every: int | jax.Array = 1,
) -> optax.GradientTransformationExtraArgs:
    """Runs an optimizer on each worker's own gradients, and mixes the parameters of neighbours.

    The update rule, where i and j are workers, W is the mixing matrix of the topology and u_i is the update of
    `inner`::

        u_i = inner(g_i)
        x_i = sum_j W_ij * (x_j + u_j)        # order="atc"
        x_i = sum_j W_ij * x_j + u_i          # order="cta"

    Give each worker its own parameters and its own gradients, not averaged. The workers' parameters stay apart by a
    distance that is roughly proportional to the learning rate, so report their mean. In a chain it must be the last
    transformation, because it overwrites the parameters. Parameters in 16 bits are mixed in float32, but agree only to
    their own precision.

    Use it when workers can reach only a few neighbours, or when averaging over all workers in each step takes too long.
    Avoid it when the data of the workers differ much, because a constant learning rate then leaves a bias, which
    `gradient_tracking` and `exact_diffusion` do not have.

    Args:
        inner: The optimizer that is wrapped, with its learning rate. Its state is never mixed.
        topology: Which workers exchange messages, from `optkit.topology`.
        axis_name: Name of the axis over workers.
        mixing: How workers mix their values, for example `repeated_mix(4)` or `chebyshev_mix(4)`. Default: `mix`, one
            weighted mean with the neighbours.
        order: "atc" (adapt, then combine) mixes the updated parameters. "cta" (combine, then adapt) mixes the
            parameters and then adds the update, so that messages can travel while gradients are computed. Default:
            "atc".
        every: Number of updates from one mixing to the next, an integer, at least 1. The other updates are local steps.
            Default: 1.

    Returns:
        An optimizer whose `update` takes the extra argument `links`: which messages arrive, see `mix`. A step that
        mixes sends the parameters once in each round of the topology, in float32 at least. Its state is that of `inner`
        and a counter.

    Raises:
        ValueError: If `every` is not a positive integer, `order` is unknown, or `axis_name` is not one name.
        TypeError: If `topology` is not a `Topology`, or `mixing` is not a function.

    Example:
        >>> import jax
        >>> import optkit
        >>> tx = optkit.gossip(optax.sgd(0.5), optkit.topology.ring(4), axis_name="workers")
        >>> def step(params, targets):
        ...     updates, _ = tx.update(params - targets, tx.init(params), params)
        ...     return optax.apply_updates(params, updates)
        >>> step = optkit.on_workers(step, axis_name="workers", backend="vmap")
        >>> step(jnp.zeros(4), jnp.array([0.0, 0.0, 6.0, 0.0]))
        Array([0., 1., 1., 1.], dtype=float32)

    Reference:
        arXiv:1705.09056.
    """
    return named_gossip("gossip", inner, topology, axis_name=axis_name, mixing=mixing, order=order, every=every)


def named_gossip(
    method: str,
    inner: optax.GradientTransformation,
    topology: Topology,
    *,
    axis_name: AxisName,
    mixing: Mixing | None = None,
    order: Order = "atc",
    every: int | jax.Array = 1,
) -> optax.GradientTransformationExtraArgs:
    """Builds `gossip` as a part of another method, whose name stands in the error messages."""
    check_period("every", every)
    check_option("order", order, Order)
    mixing = choose_mixing(mixing, topology, axis_name)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        return GossipState(count=jnp.zeros([], jnp.int32), inner=inner.init(params))

    def update_fn(updates, state, params=None, *, links=None, **extra_args):
        require_params(params, method)
        updates, inner_state = inner.update(updates, state.inner, params, links=links, **extra_args)

        period = jnp.asarray(every, state.count.dtype)

        def exchange(tree):
            return mixing(tree, topology, axis_name, step=state.count // period, links=links)

        def mixed_in_turn(tree):
            if not isinstance(every, jax.Array) and every == 1:
                return exchange(tree)
            return collectives.cond((state.count + 1) % period == 0, exchange, lambda tree: tree, tree)

        wide = widen(params)
        if order == "cta":
            new = jax.tree.map(add_update, mixed_in_turn(wide), updates)  # x_i <- sum_j W_ij x_j + u_i
        else:
            new = mixed_in_turn(jax.tree.map(add_update, wide, updates))  # x_i <- sum_j W_ij (x_j + u_j)
        return overwrite(new, params), GossipState(count=optax.safe_increment(state.count), inner=inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


METHODS = (
    Method(
        name="gossip",
        factory=gossip,
        kind="wrapper",
        summary="Runs any optimizer on each worker's own gradients, and mixes the parameters of neighbours.",
        paper=Paper(
            "Can Decentralized Algorithms Outperform Centralized Algorithms? A Case Study for Decentralized Parallel"
            " Stochastic Gradient Descent",
            "Lian et al.",
            2017,
            "1705.09056",
        ),
        also_known_as=(
            "D-PSGD",
            "DPSGD",
            "D-SGD",
            "DSGD",
            "DGD",
            "decentralized SGD",
            "decentralized parallel SGD",
            "diffusion",
            "ATC",
            "adapt then combine",
            "CTA",
            "combine then adapt",
            "AWC",
            "adapt with combine",
        ),
        example={"topology": ring(8), "axis_name": "workers"},
        grid=1e-1,
        needs=("axis_name",),
        variants={
            "cta": Variant({"order": "cta", "mixing": chebyshev_mix(2), "every": 2}, grid=1e-1),
        },
        golden="dsgd",
    ),
)
