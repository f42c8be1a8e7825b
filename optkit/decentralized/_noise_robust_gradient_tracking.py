"""Gradient tracking over noisy channels: workers track the sum of all gradients so far, and listen less and less.

The rule is assembled of two known techniques, a decaying weight of what neighbours say and cumulative tracking: Pu, "A
Robust Gradient Tracking Method for Distributed Optimization over Directed Networks", 2020, arXiv:2003.13980, and Wang,
Başar, "Gradient-Tracking Based Distributed Optimization with Guaranteed Optimality under Noisy Information Sharing",
2022, arXiv:2210.00551. It is no transcription of either.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_range
from optkit.core.extra_args import require_params
from optkit.core.precision import in_float32
from optkit.core.schedules import value_at
from optkit.core.types import AxisName
from optkit.decentralized._mixing import Mixing, choose_mixing, overwrite
from optkit.decentralized.topology import Topology, ring
from optkit.method import Method, Paper

__all__ = ["noise_robust_gradient_tracking"]


class NoiseRobustGradientTrackingState(NamedTuple):
    """State of `noise_robust_gradient_tracking`.

    Attributes:
        count: number of updates so far, equal on all workers.
        total: each worker's estimate of the sum of all steps so far, the learning rate times the mean gradient over
            workers, in float32 at least.
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

    Workers track the sum of gradients and step along its differences: the noise of one exchange is forgotten where
    plain tracking carries it for ever. For exact workers in the limit both rates fall, to zero and alike, such as
    `gamma = lambda k: 1 / (1 + k / 5)` and half of it as learning rate; with constant ones noise stays in proportion.
    Without noise plain gradient tracking is faster; where links fail at random, sums of gradients part and an error
    stays. It overwrites parameters and comes last in a chain.

    Args:
        learning_rate: a positive number or a schedule.
        topology: who hears whom.
        axis_name: the axis over workers.
        gamma: how far workers move towards what they hear, in (0, 1], or a schedule of it.
        mixing: how values are mixed; None: `mix`. `noisy_mix` simulates noisy channels.

    Returns:
        An optimizer that takes the extra argument `links`, see `mix`. Its state is one number a parameter. A step
        sends, in each of the topology's rounds, the parameters twice, in float32 at least.

    Raises:
        ValueError: if `gamma` is out of its range, or `axis_name` is not one name.
        TypeError: if `topology` is no `Topology`, or `mixing` no function.

    Example:
        >>> import optkit
        >>> tx = optkit.noise_robust_gradient_tracking(0.5, optkit.topology.ring(3), axis_name="workers", gamma=1.0)
        >>> def step(params, targets):
        ...     updates, _ = tx.update(params - targets, tx.init(params), params)
        ...     return optax.apply_updates(params, updates)
        >>> optkit.on_workers(step, axis_name="workers", backend="vmap")(jnp.zeros(3), jnp.array([0.0, 3.0, 6.0]))
        Array([0. , 1.5, 3. ], dtype=float32)

    Reference:
        Wang, Başar, "Gradient-Tracking Based Distributed Optimization with Guaranteed Optimality under Noisy
        Information Sharing", 2022, arXiv:2210.00551.
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
