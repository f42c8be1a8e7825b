"""CDProxSGT: DProxSGT whose workers send compressed differences only.

Yan, Chen, Chen, Cui, Lu, Xu, "Compressed Decentralized Proximal Stochastic Gradient Method for Nonconvex Composite
Problems with Heterogeneous Data", 2023, arXiv:2302.14252. In place of the neighbours' copies a worker keeps one running
sum of what they sent, as in the authors' code. That code has no proximal map; it stands where the paper has it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.compressors import Compressor, top_k
from optkit.core.checks import check_range
from optkit.core.extra_args import require_params
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32
from optkit.core.proximal import ProximalMap, check_proximal, check_proximal_leaves
from optkit.core.schedules import value_at
from optkit.core.types import AxisName
from optkit.decentralized._compressed_exchange import (
    CompressedConsensusState,
    compressed_consensus,
    init_consensus,
    require_constant,
)
from optkit.decentralized._mixing import overwrite
from optkit.decentralized._proximal_gradient_tracking import DPROXSGT
from optkit.decentralized.topology import Topology, ring
from optkit.method import Method
from optkit.prox import box

__all__ = ["compressed_proximal_tracking"]


class CompressedProximalTrackingState(NamedTuple):
    """State of `compressed_proximal_tracking`.

    Attributes:
        count: number of updates so far, equal on all workers.
        gradient: each worker's own last gradient, in float32 at least.
        tracked: each worker's estimate of the mean gradient over workers, in float32 at least. The mean of the
            estimates is the mean of the gradients.
        gradients_sent: what neighbours know of the estimates; each worker's own.
        params_sent: what neighbours know of the parameters; each worker's own.
    """

    count: jax.typing.ArrayLike
    gradient: optax.Updates
    tracked: optax.Updates
    gradients_sent: CompressedConsensusState
    params_sent: CompressedConsensusState


def compressed_proximal_tracking(
    learning_rate: optax.ScalarOrSchedule,
    topology: Topology,
    prox: ProximalMap,
    compressor: Compressor,
    *,
    axis_name: AxisName,
    gamma_x: jax.typing.ArrayLike = 0.5,
    gamma_y: jax.typing.ArrayLike = 0.5,
) -> optax.GradientTransformationExtraArgs:
    """CDProxSGT: `proximal_gradient_tracking` whose workers send compressed differences only.

    With `identity()` and gammas of 1 it is that method. Compressors that forget, such as `top_k`, are allowed, but the
    more they forget the smaller gammas and learning rate must be. Of random compressors take contractive ones. It
    overwrites parameters and comes last in a chain. Mixed parameters are sparse in the limit only: apply `prox` to
    those that you report.

    Args:
        learning_rate: a positive number or a schedule.
        topology: who hears whom, the same in each step.
        prox: the penalty's or constraint's proximal map, a function of a tree and of the learning rate, such as
            `prox.l1(1e-4)`.
        compressor: of what is sent, such as `top_k(0.3)`.
        axis_name: the axis over workers.
        gamma_x: how far parameters move towards the neighbours', in (0, 1]; default 0.5.
        gamma_y: how far estimates of the mean gradient do, in (0, 1]; default 0.5.

    Returns:
        An optimizer that takes the extra argument `links`, see `mix`: a lost message keeps the means over workers, but
        what it said is never made up for, and workers part. Its state is six numbers a parameter. A step sends, in each
        of the topology's rounds, two compressed trees in float32 at least: with `top_k` 2 k (4 + 4) bytes for k entries
        kept.

    Raises:
        ValueError: if a gamma is out of its range, the topology changes from step to step, or `axis_name` is not one
            name.
        TypeError: if `topology` is no `Topology`, or `prox` no function.

    Example:
        >>> import optkit
        >>> tx = optkit.compressed_proximal_tracking(
        ...     0.5, optkit.topology.ring(3), optkit.prox.l1(1.0), optkit.compressors.top_k(0.5), axis_name="workers"
        ... )
        >>> def step(params, targets):
        ...     updates, _ = tx.update(params - targets, tx.init(params), params)
        ...     return optax.apply_updates(params, updates)
        >>> step = optkit.on_workers(step, axis_name="workers", backend="vmap")
        >>> step(jnp.zeros((3, 2)), jnp.array([[0.0, 0.0], [8.0, 1.0], [16.0, 2.0]])).tolist()
        [[2.5, 0.0], [3.5, 0.0], [4.5, 0.5]]

    Reference:
        Yan et al., "Compressed Decentralized Proximal Stochastic Gradient Method for Nonconvex Composite Problems with
        Heterogeneous Data", 2023, arXiv:2302.14252.
    """
    refuse_arrays(prox=prox)
    check_proximal(prox, "compressed_proximal_tracking")
    check_range("gamma_x", gamma_x, 0.0, 1.0, low_open=True)
    check_range("gamma_y", gamma_y, 0.0, 1.0, low_open=True)
    require_constant(topology, axis_name, "compressed_proximal_tracking")

    def init_fn(params):
        check_proximal_leaves(prox, params)
        return CompressedProximalTrackingState(
            count=jnp.zeros([], jnp.int32),
            gradient=optax.tree.zeros_like(params),
            tracked=optax.tree.zeros_like(params),
            gradients_sent=init_consensus(params, compressor),
            params_sent=init_consensus(params, compressor),
        )

    def update_fn(updates, state, params=None, *, links=None, **extra_args):
        del extra_args
        require_params(params, "compressed_proximal_tracking")
        rate = value_at(learning_rate, state.count)
        tracked = jax.tree.map(lambda y, g, last: y + g - last, state.tracked, updates, state.gradient)
        tracked, gradients_sent = compressed_consensus(
            tracked, state.gradients_sent, compressor, topology, axis_name, gamma_y, links
        )
        moved = jax.tree.map(lambda x, y: x - jnp.asarray(rate, x.dtype) * y, params, tracked)
        nearest = optax.tree.cast_like(prox(moved, rate), moved)
        new, params_sent = compressed_consensus(
            nearest, state.params_sent, compressor, topology, axis_name, gamma_x, links
        )
        return overwrite(new, params), CompressedProximalTrackingState(
            count=optax.safe_increment(state.count),
            gradient=updates,
            tracked=tracked,
            gradients_sent=gradients_sent,
            params_sent=params_sent,
        )

    return in_float32(optax.GradientTransformationExtraArgs(init_fn, update_fn))


METHODS = (
    Method(
        name="compressed_proximal_tracking",
        factory=compressed_proximal_tracking,
        kind="optimizer",
        summary="Decentralized proximal gradient descent with tracked gradients and compressed messages.",
        paper=DPROXSGT,
        also_known_as=("CDProxSGT", "compressed decentralized proximal stochastic gradient tracking"),
        example={
            "learning_rate": 1e-3,
            "prox": box(-10.0, 10.0),
            "compressor": top_k(0.5),
            "topology": ring(8),
            "axis_name": "workers",
        },
        grid=0.1,
        needs=("axis_name",),
        golden="cdproxsgt",
    ),
)
