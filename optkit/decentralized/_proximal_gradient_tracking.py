"""DProxSGT: decentralized proximal gradient descent with tracked gradients, for losses plus a penalty or constraint.

Yan, Chen, Chen, Cui, Lu, Xu, "Compressed Decentralized Proximal Stochastic Gradient Method for Nonconvex Composite
Problems with Heterogeneous Data", 2023, arXiv:2302.14252. The rule is the paper's. The authors' experiments with l1
penalties take steps along the tracked gradient as it is before mixing, which is `mixed_step=False` here.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.extra_args import require_params
from optkit.core.injection import refuse_arrays
from optkit.core.overwriting import overwrite
from optkit.core.precision import in_float32
from optkit.core.proximal import ProximalMap, check_proximal, check_proximal_leaves
from optkit.core.schedules import value_at
from optkit.core.types import AxisName
from optkit.decentralized._mixing import Mixing, choose_mixing
from optkit.decentralized.topology import Topology, ring
from optkit.method import Method, Paper, Variant
from optkit.prox import box

__all__ = ["proximal_gradient_tracking"]


class ProximalGradientTrackingState(NamedTuple):
    """State of `proximal_gradient_tracking`.

    Attributes:
        count: Number of updates so far, equal on all workers.
        gradient: Each worker's own last gradient, in float32 at least.
        tracked: Each worker's estimate of the mean gradient over workers, in float32 at least. The mean of the
            estimates is the mean of the gradients.
    """

    count: jax.typing.ArrayLike
    gradient: optax.Updates
    tracked: optax.Updates


def proximal_gradient_tracking(
    learning_rate: optax.ScalarOrSchedule,
    topology: Topology,
    prox: ProximalMap,
    *,
    axis_name: AxisName,
    mixing: Mixing | None = None,
    mixed_step: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Decentralized proximal gradient descent with tracked gradients, for a penalty or a constraint (DProxSGT).

    The update rule, where i and j are workers, W is the mixing matrix of the topology, g_old is the gradient of the
    step before, and y and g_old start at zero::

        y_i = sum_j W_ij * (y_j + g_j - g_old_j)
        z_i = prox(x_i - lr * y_i, lr)
        x_i = sum_j W_ij * z_j

    It minimizes the mean of the workers' losses plus a penalty, or under a constraint. Give each worker its own
    parameters and its own gradients, not averaged. In a chain it must be the last transformation, because it overwrites
    the parameters. Clip gradients before it. A gradient that is not finite stays in the estimates forever: skip such a
    step on all workers. Mixed parameters are sparse only in the limit: apply `prox` to those that you report.

    Use it when the loss has a penalty or a constraint and the data of the workers differ: with exact gradients and a
    constant learning rate all workers reach the same minimum, which `gossip` does not. Avoid it when messages are
    expensive, because it sends twice as many bytes as `gossip`; `compressed_proximal_tracking` compresses them.

    Args:
        learning_rate: The learning rate, a positive number or a schedule.
        topology: Which workers exchange messages, from `optkit.topology`.
        prox: The proximal map of the penalty or constraint, a function of a tree and of the learning rate, such as
            `prox.l1(1e-4)`.
        axis_name: Name of the axis over workers.
        mixing: How workers mix their values. Default: `mix`, one weighted mean with the neighbours.
        mixed_step: Whether the step follows the mixed estimate of the mean gradient. If not, it follows the estimate
            before mixing, and estimates and parameters are mixed at the same time. Default: True.

    Returns:
        An optimizer whose `update` takes the extra argument `links`: which messages arrive, see `mix`. A step sends two
        numbers per parameter in each round of the topology, in float32 at least. Its state is two numbers per
        parameter.

    Raises:
        ValueError: If `axis_name` is not one name.
        TypeError: If `topology` is not a `Topology`, or `mixing` or `prox` is not a function.

    Example:
        >>> import optkit
        >>> ring, l1 = optkit.topology.ring(3), optkit.prox.l1(1.0)
        >>> tx = optkit.proximal_gradient_tracking(0.5, ring, l1, axis_name="workers")
        >>> def step(params, targets):
        ...     updates, _ = tx.update(params - targets, tx.init(params), params)
        ...     return optax.apply_updates(params, updates)
        >>> optkit.on_workers(step, axis_name="workers", backend="vmap")(jnp.zeros(3), jnp.array([0.0, 3.0, 6.0]))
        Array([1., 1., 1.], dtype=float32)

    Reference:
        arXiv:2302.14252.
    """
    refuse_arrays(prox=prox)
    check_proximal(prox, "proximal_gradient_tracking")
    mixing = choose_mixing(mixing, topology, axis_name)

    def init_fn(params):
        check_proximal_leaves(prox, params)
        return ProximalGradientTrackingState(
            count=jnp.zeros([], jnp.int32),
            gradient=optax.tree.zeros_like(params),
            tracked=optax.tree.zeros_like(params),
        )

    def update_fn(updates, state, params=None, *, links=None, **extra_args):
        del extra_args
        require_params(params, "proximal_gradient_tracking")
        rate = value_at(learning_rate, state.count)

        def mixed(tree):
            return mixing(tree, topology, axis_name, step=state.count, links=links)

        def step_along(direction):
            moved = jax.tree.map(lambda x, y: x - jnp.asarray(rate, x.dtype) * y, params, direction)
            return optax.tree.cast_like(prox(moved, rate), moved)  # z = prox_{lr r}(x - lr y)

        tracked = jax.tree.map(lambda y, g, last: y + g - last, state.tracked, updates, state.gradient)
        if mixed_step:
            tracked = mixed(tracked)  # y_i <- sum_j W_ij (y_j + g_j - g_j of the last step)
            new = mixed(step_along(tracked))  # x_i <- sum_j W_ij z_j
        else:
            tracked, new = mixed((tracked, step_along(tracked)))
        return overwrite(new, params), ProximalGradientTrackingState(
            count=optax.safe_increment(state.count), gradient=updates, tracked=tracked
        )

    return in_float32(optax.GradientTransformationExtraArgs(init_fn, update_fn))


DPROXSGT = Paper(
    "Compressed Decentralized Proximal Stochastic Gradient Method for Nonconvex Composite Problems with Heterogeneous"
    " Data",
    "Yan et al.",
    2023,
    "2302.14252",
)

METHODS = (
    Method(
        name="proximal_gradient_tracking",
        factory=proximal_gradient_tracking,
        kind="optimizer",
        summary="Decentralized proximal gradient descent with tracked gradients, for a penalty or a constraint.",
        paper=DPROXSGT,
        also_known_as=("DProxSGT", "decentralized proximal stochastic gradient tracking"),
        example={"learning_rate": 1e-3, "prox": box(-10.0, 10.0), "topology": ring(8), "axis_name": "workers"},
        grid=0.1,
        needs=("axis_name",),
        variants={"unmixed": Variant({"mixed_step": False}, grid=0.1)},
        golden="dproxsgt",
    ),
)
