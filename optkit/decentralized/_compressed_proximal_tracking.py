"""CDProxSGT: the method DProxSGT, with workers that send only compressed differences.

Yan, Chen, Chen, Cui, Lu, Xu, "Compressed Decentralized Proximal Stochastic Gradient Method for Nonconvex Composite
Problems with Heterogeneous Data", 2023, arXiv:2302.14252. As in the authors' code, a worker does not keep copies of its
neighbours' values, but one running sum of their messages. That code has no proximal map; here it stands where the paper
has it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.compressors import Compressor, top_k
from optkit.core.checks import check_range
from optkit.core.extra_args import require_params
from optkit.core.injection import refuse_arrays
from optkit.core.overwriting import overwrite
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
from optkit.decentralized._proximal_gradient_tracking import DPROXSGT
from optkit.decentralized.topology import Topology, ring
from optkit.method import Method
from optkit.prox import box

__all__ = ["compressed_proximal_tracking"]


class CompressedProximalTrackingState(NamedTuple):
    """State of `compressed_proximal_tracking`.

    Attributes:
        count: Number of updates so far, equal on all workers.
        gradient: Each worker's own last gradient, in float32 at least.
        tracked: Each worker's estimate of the mean gradient over workers, in float32 at least. The mean of the
            estimates is the mean of the gradients.
        gradients_sent: What neighbours know of the estimates. Each worker has its own.
        params_sent: What neighbours know of the parameters. Each worker has its own.
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
    """Decentralized proximal gradient descent with tracked gradients and compressed messages (CDProxSGT).

    The update rule, where i and j are workers, W is the mixing matrix of the topology, g_old is the gradient of the
    step before, and k_i is what the neighbours know of worker i's value; y, g_old and both k start at zero::

        y_i = exchange(y_i + g_i - g_old_i, gamma_y)
        z_i = prox(x_i - lr * y_i, lr)
        x_i = exchange(z_i, gamma_x)

        exchange(a_i, gamma), with one k for y and one for x:
            k_i = k_i + compress(a_i - k_i)
            a_i = a_i + gamma * sum_j W_ij * (k_j - k_i)

    It is `proximal_gradient_tracking` with compressed messages. With the compressor `identity()` and both gammas 1 it
    is that method. In a chain it must be the last transformation, because it overwrites the parameters. Mixed
    parameters are sparse only in the limit: apply `prox` to those that you report.

    Use it when the loss has a penalty or a constraint, the data of the workers differ, and messages are too large for
    the network. Avoid it when memory is scarce, because it stores six numbers per parameter, or when messages get lost:
    the means over workers stay the same, but the content of a lost message is never sent again, and workers drift
    apart.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. The more the compressor leaves out, the
            smaller it must be.
        topology: Which workers exchange messages, from `optkit.topology`. It must be the same in each step.
        prox: The proximal map of the penalty or constraint, a function of a tree and of the learning rate, such as
            `prox.l1(1e-4)`.
        compressor: Compresses the messages, for example `top_k(0.3)`. Biased compressors such as `top_k` are allowed. A
            random compressor must be contractive.
        axis_name: Name of the axis over workers.
        gamma_x: Size of the step towards the neighbours' parameters, in (0, 1]. The more the compressor leaves out, the
            smaller it must be. Default: 0.5.
        gamma_y: Size of the step towards the neighbours' estimates of the mean gradient, in (0, 1]. The more the
            compressor leaves out, the smaller it must be. Default: 0.5.

    Returns:
        An optimizer whose `update` takes the extra argument `links`: which messages arrive, see `mix`. A step sends two
        compressed trees in each round of the topology, in float32 at least; with `top_k` these are 2 k (4 + 4) bytes,
        where k is the number of entries kept. Its state is six numbers per parameter.

    Raises:
        ValueError: If `gamma_x` or `gamma_y` is out of its range, the topology changes from step to step, or
            `axis_name` is not one name.
        TypeError: If `topology` is not a `Topology`, or `prox` is not a function.

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
        arXiv:2302.14252.
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
