"""MoNNA: local momentum, and averages of the parameters that are nearest to a worker's own.

Farhadkhani, Guerraoui, Gupta, Hoang, Pinot, Stephan, "Robust Collaborative Learning with Linear Gradient Overhead",
2022, arXiv:2209.10931. In the paper a worker averages n - 2 f of the n - f vectors that it receives first; here no
message is late, and it averages n - f of n.
"""

import jax
import optax

from optkit.core.checks import check_range
from optkit.core.complex_numbers import refuse_complex
from optkit.core.extra_args import require_params
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32
from optkit.core.types import AxisName
from optkit.decentralized._gossip import gossip
from optkit.decentralized._mixing import Mixing
from optkit.decentralized.topology import Topology, complete
from optkit.method import Method
from optkit.robust_aggregation._nearest_neighbor_average import COLLABORATIVE, nearest_neighbor_average
from optkit.robust_aggregation._robust_mix import robust_mix

__all__ = ["monna"]


def monna(
    learning_rate: optax.ScalarOrSchedule,
    topology: Topology,
    byzantine: int,
    b1: jax.typing.ArrayLike = 0.99,
    *,
    axis_name: AxisName,
    mixing: Mixing | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Takes a local momentum step, then averages the parameters that are nearest to the worker's own (MoNNA).

    The update rule, where a worker receives h vectors from its neighbours, its own y included::

        m = b1 * m + (1 - b1) * g
        y = x - lr * m
        x = mean of the h - byzantine received vectors nearest to y

    It replaces parameters, so put weight decay into the loss, as in the paper. Workers' parameters stay apart by about
    the learning rate; report the mean of those that are trusted.

    Use it when there is no server to trust and some workers may send anything. Avoid it when all workers are trusted,
    because `gossip` sends less on sparse topologies and keeps the mean. A step sends the parameters once in each round
    of the topology: n - 1 times on a complete one.

    Args:
        learning_rate: The learning rate, a positive number or a schedule.
        topology: Which workers exchange messages, from `optkit.topology`. The paper's is `complete`.
        byzantine: How many of the received vectors a worker leaves out, at least 0. It needs more than twice as many
            vectors, its own included.
        b1: Decay rate of the momentum, in [0, 1). Default: 0.99.
        axis_name: Name of the axis over workers.
        mixing: How values are mixed. Default: `robust_mix(nearest_neighbor_average(byzantine))`. With
            `robust_mix(self_centered_clip(radius, 3))` it is the self-centered clipping that the paper compares with.

    Returns:
        An optimizer that takes the extra argument `links`, see `mix`. Its state is one number per parameter.

    Raises:
        ValueError: If an argument is out of its range; from `update`, if a worker receives too few vectors.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.monna(0.1, optkit.topology.complete(4), byzantine=1, axis_name="workers")
        >>> def step(params, grads):
        ...     updates, _ = tx.update(grads, tx.init(params), params)
        ...     return optax.apply_updates(params, updates)
        >>> step = optkit.on_workers(step, axis_name="workers", backend="vmap")
        >>> step(jnp.array([1.0, 2.0, 3.0, 9e9]), jnp.zeros(4))[:3]
        Array([2., 2., 2.], dtype=float32)

    Reference:
        arXiv:2209.10931
    """
    refuse_arrays(topology=topology, axis_name=axis_name, mixing=mixing)
    check_range("b1", b1, 0.0, 1.0, high_open=True)
    nearest = nearest_neighbor_average(byzantine)
    # m = b1 m + (1 - b1) g, and x - learning_rate m before the exchange.
    local = optax.chain(optax.ema(b1, debias=False), optax.scale_by_learning_rate(learning_rate))
    exchange = gossip(local, topology, axis_name=axis_name, mixing=robust_mix(nearest) if mixing is None else mixing)

    def init_fn(params):
        refuse_complex(params, "monna", functions=True)
        return exchange.init(params)

    def update_fn(updates, state, params=None, **extra_args):
        require_params(params, "monna")
        return exchange.update(updates, state, params, **extra_args)

    return in_float32(optax.GradientTransformationExtraArgs(init_fn, update_fn))


METHODS = (
    Method(
        name="monna",
        factory=monna,
        kind="optimizer",
        summary="Local momentum, then the mean of the parameters nearest to a worker's own, without a server.",
        paper=COLLABORATIVE,
        example={"learning_rate": 2e-3, "topology": complete(8), "byzantine": 2, "axis_name": "workers"},
        grid=1.0,
        needs=("axis_name",),
    ),
)
