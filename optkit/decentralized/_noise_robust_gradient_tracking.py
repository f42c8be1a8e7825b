"""Gradient tracking over noisy channels: workers track the sum of all gradients so far, with falling mixing weights.

The rule combines two known techniques, a decaying weight of the neighbours' messages and cumulative tracking: Pu, "A
Robust Gradient Tracking Method for Distributed Optimization over Directed Networks", 2020, arXiv:2003.13980, and Wang,
Başar, "Gradient-Tracking Based Distributed Optimization with Guaranteed Optimality under Noisy Information Sharing",
2022, arXiv:2210.00551. It is not a transcription of either.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_range
from optkit.core.extra_args import require_params
from optkit.core.overwriting import overwrite
from optkit.core.precision import in_float32
from optkit.core.schedules import value_at
from optkit.core.types import AxisName
from optkit.decentralized._mixing import Mixing, choose_mixing
from optkit.decentralized.topology import Topology, ring
from optkit.method import Method, Paper

__all__ = ["noise_robust_gradient_tracking"]


class NoiseRobustGradientTrackingState(NamedTuple):
    """State of `noise_robust_gradient_tracking`.

    Attributes:
        count: Number of updates so far, equal on all workers.
        total: Each worker's estimate of the sum of all steps so far, where a step is the learning rate times the mean
            gradient over workers; in float32 at least.
    """

    count: jax.typing.ArrayLike
    total: optax.Updates


def noise_robust_gradient_tracking(
    learning_rate: optax.ScalarOrSchedule,
    topology: Topology,
    *,
    axis_name: AxisName,
    gamma: optax.ScalarOrSchedule,
    mixing: Mixing | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Tracks the mean gradient over channels that add noise, without adding that noise up.

    The update rule, where i and j are workers, W is the mixing matrix of the topology and s_i starts at zero::

        s_new_i = s_i + gamma * sum_j W_ij * (s_j - s_i) + lr * g_i
        x_i = x_i + gamma * sum_j W_ij * (x_j - x_i) - (s_new_i - s_i)
        s_i = s_new_i

    Workers track the sum of all gradients and take steps along its differences. The noise of one exchange is therefore
    forgotten, while plain gradient tracking carries it along forever. In a chain it must be the last transformation,
    because it overwrites the parameters.

    Use it when messages arrive with noise, for example on analog channels or with privacy noise. To get exact workers
    in the limit, let `gamma` and the learning rate fall to zero in proportion, for example `gamma = lambda k: 1 / (1 +
    k / 5)` and half of it as learning rate; with constant values an error in proportion to the noise stays. Avoid it
    when messages have no noise, because plain gradient tracking is faster there, or when links fail at random, because
    the sums of gradients then drift apart and an error stays.

    Args:
        learning_rate: The learning rate, a positive number or a schedule.
        topology: Which workers exchange messages, from `optkit.topology`.
        axis_name: Name of the axis over workers.
        gamma: Size of the step towards the neighbours' values, a number in (0, 1] or a schedule.
        mixing: How workers mix their values; `noisy_mix` simulates noisy channels. Default: `mix`, one weighted mean
            with the neighbours.

    Returns:
        An optimizer whose `update` takes the extra argument `links`: which messages arrive, see `mix`. A step sends two
        numbers per parameter in each round of the topology, in float32 at least. Its state is one number per parameter.

    Raises:
        ValueError: If `gamma` is out of its range, or `axis_name` is not one name.
        TypeError: If `topology` is not a `Topology`, or `mixing` is not a function.

    Example:
        >>> import optkit
        >>> tx = optkit.noise_robust_gradient_tracking(0.5, optkit.topology.ring(3), axis_name="workers", gamma=1.0)
        >>> def step(params, targets):
        ...     updates, _ = tx.update(params - targets, tx.init(params), params)
        ...     return optax.apply_updates(params, updates)
        >>> optkit.on_workers(step, axis_name="workers", backend="vmap")(jnp.zeros(3), jnp.array([0.0, 3.0, 6.0]))
        Array([0. , 1.5, 3. ], dtype=float32)

    Reference:
        arXiv:2210.00551.
    """
    check_range("gamma", gamma, 0.0, 1.0, low_open=True)
    mixing = choose_mixing(mixing, topology, axis_name)

    def init_fn(params):
        return NoiseRobustGradientTrackingState(count=jnp.zeros([], jnp.int32), total=optax.tree.zeros_like(params))

    def update_fn(updates, state, params=None, *, links=None, **extra_args):
        del extra_args
        require_params(params, "noise_robust_gradient_tracking")
        rate = value_at(learning_rate, state.count)
        share = value_at(gamma, state.count)
        old = params, state.total
        mixed = mixing(old, topology, axis_name, step=state.count, links=links)
        towards = jax.tree.map(lambda x, m: x + jnp.asarray(share, x.dtype) * (m - x), old, mixed)
        total = jax.tree.map(lambda s, g: s + jnp.asarray(rate, s.dtype) * g, towards[1], updates)
        # x_i <- x_i + gamma sum_j W_ij (x_j - x_i) - (the new total - the old one)
        new = jax.tree.map(lambda x, now, before: x - (now - before), towards[0], total, state.total)
        return overwrite(new, params), NoiseRobustGradientTrackingState(
            count=optax.safe_increment(state.count), total=total
        )

    return in_float32(optax.GradientTransformationExtraArgs(init_fn, update_fn))


METHODS = (
    Method(
        name="noise_robust_gradient_tracking",
        factory=noise_robust_gradient_tracking,
        kind="optimizer",
        summary="Tracks the mean gradient over channels that add noise, without adding that noise up.",
        paper=Paper(
            "Gradient-Tracking Based Distributed Optimization with Guaranteed Optimality under Noisy Information"
            " Sharing",
            "Wang, Başar",
            2022,
            "2210.00551",
        ),
        also_known_as=("robust gradient tracking",),
        example={"learning_rate": 1e-3, "gamma": 1.0, "topology": ring(8), "axis_name": "workers"},
        grid=0.1,
        needs=("axis_name",),
        golden="noise_robust_gt",
    ),
)
