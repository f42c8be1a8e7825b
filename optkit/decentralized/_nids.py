"""NIDS: decentralized proximal gradient descent whose learning rate does not depend on the topology.

Li, Shi, Yan, "A Decentralized Proximal-Gradient Method with Network Independent Step-sizes and Separated Convergence
Rates", 2017, arXiv:1704.07807. Without a proximal map it is `exact_diffusion` on the lazy topology, with a first step
that is not mixed.
"""

import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_range
from optkit.core.extra_args import require_params
from optkit.core.injection import refuse_arrays
from optkit.core.overwriting import overwrite
from optkit.core.precision import in_float32
from optkit.core.proximal import ProximalMap, check_proximal, check_proximal_leaves
from optkit.core.schedules import value_at
from optkit.core.types import AxisName
from optkit.decentralized._exact_diffusion import diffusion_step
from optkit.decentralized._mixing import Mixing, choose_mixing, mix
from optkit.decentralized._stability import require_decay
from optkit.decentralized.topology import Topology, ring
from optkit.method import Method, Paper

__all__ = ["nids"]


class NidsState(NamedTuple):
    """State of `nids`.

    Attributes:
        count: Number of updates so far, equal on all workers.
        correction: The term `x_t - x_{t-1} + lr * g_{t-1}`, in float32 at least. Each worker has its own. Without a
            proximal map, and if all workers have the same learning rate, their mean over workers is zero.
        displacement: What the last proximal map took away, `z_t - x_t`, in float32 at least. Each worker has its own.
            None without a proximal map.
    """

    count: jax.typing.ArrayLike
    correction: optax.Updates
    displacement: Any


def nids(
    learning_rate: optax.ScalarOrSchedule,
    topology: Topology,
    *,
    axis_name: AxisName,
    mixing: Mixing | None = None,
    prox: ProximalMap | None = None,
    c: jax.typing.ArrayLike = 0.5,
    max_learning_rate: jax.typing.ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Proximal gradient descent over workers, whose learning rate does not depend on the topology.

    The update rule, where i and j are workers, W is the mixing matrix of the topology and e_i starts at zero. In the
    first step d_i is zero::

        h_i = x_i - lr * g_i + e_i
        d_i = c * (sum_j W_ij * h_j - h_i)
        x_i = h_i + d_i
        e_i = e_i + d_i

    With `prox`, where r_i starts at zero and dr_i is the change of r_i in this step, the last two lines become::

        z_i = h_i + d_i + r_i
        x_i = prox(z_i, lr)
        r_i = z_i - x_i
        e_i = e_i + d_i - dr_i

    All workers reach the minimum of the mean loss, plus the term that belongs to `prox`, even if their data differ.
    Give each worker its own gradients, not averaged. In a chain it must be the last transformation, because it
    overwrites the parameters.

    Use it when the learning rate should be large, or should differ between workers: on every topology its bound is 2
    divided by the curvature of the loss, and each worker may have its own. Avoid it when you need another optimizer
    than gradient descent: `exact_diffusion` takes any. Avoid it, too, when links fail in one direction only, because
    the mean over workers then moves and does not come back.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. A schedule may give each worker its own rate,
            for example `lambda count: rates[jax.lax.axis_index("workers")]`.
        topology: Which workers exchange messages, from `optkit.topology`.
        axis_name: Name of the axis over workers.
        mixing: How workers mix their values. With anything but `mix` the topology is not checked. Default: `mix`, one
            weighted mean with the neighbours.
        prox: The proximal map of the term that every worker adds to its loss, a function `prox(params, step_size)`. It
            is called with the learning rate as step size. Default: None, there is no such term.
        c: Weight of the mixing in a step, in (0, 1]. Default: 0.5, the largest value that works with every symmetric
            topology.
        max_learning_rate: The largest of the workers' learning rates, above 0. Give it if they differ: the weight of
            the mixing is then `c * lr / max_learning_rate` on each worker. Default: None, the weight is `c`.

    Returns:
        An optimizer whose `update` takes the extra argument `links`: which messages arrive, see `mix`. It sends the
        parameters once in each round of the topology. Its state is one number per parameter, two with `prox`.

    Raises:
        ValueError: If `c` or `max_learning_rate` is out of its range, the method does not settle on the topology with
            this `c`, or `axis_name` is not one name.
        TypeError: If `topology` is not a `Topology`, or `mixing` or `prox` is not a function.

    Example:
        >>> import optkit
        >>> def soft_threshold(params, step_size):
        ...     return jnp.sign(params) * jnp.maximum(jnp.abs(params) - step_size, 0)
        >>> tx = optkit.nids(0.5, optkit.topology.ring(3), axis_name="workers", prox=soft_threshold)
        >>> def train(target):
        ...     params = jnp.zeros([])
        ...     state = tx.init(params)
        ...     for _ in range(50):
        ...         updates, state = tx.update(params - target, state, params)
        ...         params = optax.apply_updates(params, updates)
        ...     return params
        >>> jax.vmap(train, axis_name="workers")(jnp.array([0.0, 0.0, 6.0])).round(3)
        Array([1., 1., 1.], dtype=float32)

    Reference:
        arXiv:1704.07807.
    """
    check_range("c", c, 0.0, 1.0, low_open=True)
    refuse_arrays(prox=prox)
    check_proximal(prox, "nids")
    check_range("max_learning_rate", max_learning_rate, 0.0, low_open=True)
    mixing = choose_mixing(mixing, topology, axis_name)
    if mixing is mix and isinstance(c, numbers.Real):
        require_decay(
            "nids",
            topology,
            lambda mixing, one: diffusion_step(one + c * (mixing - one), one),
            "Use another c, or gradient_tracking",
        )

    def init_fn(params):
        check_proximal_leaves(prox, params)
        zeros = optax.tree.zeros_like(params)
        return NidsState(jnp.zeros([], jnp.int32), zeros, None if prox is None else optax.tree.zeros_like(params))

    def update_fn(updates, state, params=None, *, links=None, **extra_args):
        del extra_args
        require_params(params, "nids")
        rate = value_at(learning_rate, state.count)
        share = c if max_learning_rate is None else c * rate / max_learning_rate
        share = jnp.where(state.count == 0, 0, share)  # the first step is not mixed
        # 2 x_t - x_{t-1} - lr g_t + lr g_{t-1}
        half = jax.tree.map(lambda p, g, e: p - jnp.asarray(rate, p.dtype) * g + e, params, updates, state.correction)
        heard = mixing(half, topology, axis_name, step=state.count, links=links)
        # The term -c diag(lr) (I - W) half. Corrections are sums of it, because sums of differences of parameters would
        # lose their mean by rounding.
        mixed_in = jax.tree.map(lambda h, x: jnp.asarray(share, h.dtype) * (x - h), half, heard)
        new, correction = optax.tree.add(half, mixed_in), optax.tree.add(state.correction, mixed_in)
        displacement = None
        if prox is not None:
            before = optax.tree.add(new, state.displacement)  # z_{t+1} = z_t - x_t + (...)
            new = optax.tree.cast_like(prox(before, rate), before)  # x_{t+1} = prox(z_{t+1})
            displacement = optax.tree.sub(before, new)
            correction = optax.tree.sub(correction, optax.tree.sub(displacement, state.displacement))
        count = optax.safe_increment(state.count)
        return overwrite(new, params), NidsState(count, correction, displacement)

    return in_float32(optax.GradientTransformationExtraArgs(init_fn, update_fn))


METHODS = (
    Method(
        name="nids",
        factory=nids,
        kind="optimizer",
        summary="Proximal gradient descent over workers, whose learning rate does not depend on the topology.",
        paper=Paper(
            "A Decentralized Proximal-Gradient Method with Network Independent Step-sizes and Separated Convergence"
            " Rates",
            "Li, Shi, Yan",
            2017,
            "1704.07807",
        ),
        also_known_as=("network independent step-size", "decentralized proximal gradient"),
        example={"learning_rate": 1e-3, "topology": ring(8), "axis_name": "workers"},
        grid=1e-1,
        needs=("axis_name",),
    ),
)
