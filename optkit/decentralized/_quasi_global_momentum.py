"""Quasi-global momentum: gossip whose momentum is made of the way that the mixed parameters went.

Lin, Karimireddy, Stich, Jaggi, "Quasi-Global Momentum: Accelerating Decentralized Deep Learning on Heterogeneous Data",
2021, arXiv:2102.04761. The rule is that of the authors' code (epfml/quasi-global-momentum). Where it subtracts
parameters to see which way they went, the update and what mixing added are summed here: the same number with less
rounding.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_integer, check_range
from optkit.core.decay import add_decay
from optkit.core.extra_args import require_params
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32
from optkit.core.schedules import value_at
from optkit.core.types import AxisName, Mask
from optkit.decentralized._mixing import Mixing, choose_mixing, extrapolate, overwrite
from optkit.decentralized.topology import Topology, ring
from optkit.method import Method, Paper

__all__ = ["qg_dsgdm"]


class QgDsgdmState(NamedTuple):
    """State of `qg_dsgdm`.

    Attributes:
        count: number of updates so far, equal on all workers.
        momentum: average of the ways that the mixed parameters went, over the learning rate, each worker's own, in
            float32 at least.
        displacement: sum of these ways since `momentum` last took them up; None where it does so in every step.
    """

    count: jax.typing.ArrayLike
    momentum: optax.Updates
    displacement: Any


def qg_dsgdm(
    learning_rate: optax.ScalarOrSchedule,
    topology: Topology,
    momentum: jax.typing.ArrayLike = 0.9,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    axis_name: AxisName,
    mixing: Mixing | None = None,
    nesterov: bool = True,
    dampening: jax.typing.ArrayLike = 0.0,
    qg_factor: jax.typing.ArrayLike | None = None,
    qg_local_step: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Mixes parameters with the neighbours after steps of SGD whose momentum is the way that all of them go.

    Where workers' data differ, a worker's own momentum pulls it away from the others; this one does not. It costs
    nothing more than momentum. It comes last in a chain, since it overwrites parameters. Give each worker its own
    gradients. It has a smaller bias than `gossip`, but one: `gradient_tracking` has none. A learning rate that falls
    much faster than workers come together makes the momentum long.

    Args:
        learning_rate: a positive number or a schedule; steps in which it is zero leave the momentum as it is.
        topology: who hears whom.
        momentum: weight of the momentum in a step, in [0, 1); default 0.9. With 0 it is `gossip` of SGD.
        weight_decay: what is added to gradients, times the parameters, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        axis_name: the axis over workers.
        mixing: how values are mixed; None: `mix`, one weighted mean.
        nesterov: whether the step looks ahead (default, as the authors run it).
        dampening: share of the gradient that the momentum leaves out, in [0, 1]; default 0.
        qg_factor: weight of the last way in the average, in [0, 1]; default `1 - momentum`, as in the paper. The
            authors' code has 0.1.
        qg_local_step: the momentum takes up ways in every so many steps only, at least 1. None: 1. The first one
            comes with the first step, and counts as if it had been the sum of so many.

    Returns:
        An optimizer that takes the extra argument `links`, see `mix`. It sends the parameters once in each round of the
        topology, and keeps one number a parameter, two with a larger `qg_local_step`.

    Raises:
        ValueError: if a hyperparameter is out of its range, or `axis_name` is not one name.
        TypeError: if `topology` is no `Topology`, `mixing` no function, or `mask` or `qg_local_step` an array.

    Example:
        >>> import optkit
        >>> tx = optkit.qg_dsgdm(0.5, optkit.topology.ring(3), axis_name="workers", nesterov=False)
        >>> def two_steps(gradient):
        ...     params = jnp.zeros([])
        ...     updates, state = tx.update(gradient, tx.init(params), params)
        ...     return updates, state[1].momentum
        >>> jax.vmap(two_steps, axis_name="workers")(jnp.array([0.0, 0.0, 6.0]))
        (Array([-1., -1., -1.], dtype=float32), Array([0.2, 0.2, 0.2], dtype=float32))

    Reference:
        Lin, Karimireddy, Stich, Jaggi, "Quasi-Global Momentum: Accelerating Decentralized Deep Learning on
        Heterogeneous Data", 2021, arXiv:2102.04761.
    """
    check_range("momentum", momentum, 0.0, 1.0, high_open=True)
    check_range("dampening", dampening, 0.0, 1.0)
    check_range("qg_factor", qg_factor, 0.0, 1.0)
    refuse_arrays(mask=mask, qg_local_step=qg_local_step)
    local_steps = 1 if qg_local_step is None else qg_local_step
    check_integer("qg_local_step", local_steps)
    mixing = choose_mixing(mixing, topology, axis_name)
    factor = 1 - momentum if qg_factor is None else qg_factor

    def init_fn(params):
        zeros = optax.tree.zeros_like(params)
        displacement = None if local_steps == 1 else optax.tree.zeros_like(params)
        return QgDsgdmState(jnp.zeros([], jnp.int32), zeros, displacement)

    def update_fn(updates, state, params=None, *, links=None, **extra_args):
        del extra_args
        require_params(params, "qg_dsgdm")
        rate = value_at(learning_rate, state.count)
        own = jax.tree.map(lambda m, g: momentum * m + (1 - dampening) * g, state.momentum, updates)
        direction = jax.tree.map(lambda m, g: g + momentum * m, own, updates) if nesterov else own
        half = jax.tree.map(lambda p, s: p - rate * s, params, direction)
        new = mixing(half, topology, axis_name, step=state.count, links=links)

        def way(m, s, before, after):  # d = (x_t - x_{t+1}) / lr
            inverse = 1 / jnp.where(rate == 0, 1, rate)
            return jnp.where(rate == 0, m, s + inverse * (before - after)).astype(m.dtype)

        ways = jax.tree.map(way, state.momentum, direction, half, new)
        if state.displacement is None:
            average, displacement = extrapolate(ways, state.momentum, factor), None
        else:
            ways = optax.tree.add(state.displacement, ways)
            taken = state.count % local_steps == 0
            average = extrapolate(optax.tree.scale(1 / local_steps, ways), state.momentum, factor)
            average = optax.tree.where(taken, average, state.momentum)
            displacement = optax.tree.where(taken, optax.tree.zeros_like(ways), ways)
        return overwrite(new, params), QgDsgdmState(optax.safe_increment(state.count), average, displacement)

    descend = optax.GradientTransformationExtraArgs(init_fn, update_fn)
    return in_float32(optax.chain(add_decay("qg_dsgdm", weight_decay, mask), descend))


QUASI_GLOBAL = Paper(
    "Quasi-Global Momentum: Accelerating Decentralized Deep Learning on Heterogeneous Data",
    "Lin et al.",
    2021,
    "2102.04761",
)

METHODS = (
    Method(
        name="qg_dsgdm",
        factory=qg_dsgdm,
        kind="optimizer",
        summary="Decentralized SGD whose momentum is the way that the mixed parameters go.",
        paper=QUASI_GLOBAL,
        also_known_as=("QG-DSGDm", "QG-DSGDm-N", "QGM", "quasi-global momentum"),
        example={"learning_rate": 1e-3, "topology": ring(8), "axis_name": "workers"},
        grid=1e-1,
        needs=("axis_name",),
    ),
)
