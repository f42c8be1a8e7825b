"""Quasi-global momentum: gossip whose momentum averages the displacements of the mixed parameters.

Lin, Karimireddy, Stich, Jaggi, "Quasi-Global Momentum: Accelerating Decentralized Deep Learning on Heterogeneous Data",
2021, arXiv:2102.04761. The rule is that of the authors' code (epfml/quasi-global-momentum). The code subtracts
parameters to find their displacement. Here the update and the change by mixing are added up instead, which gives the
same number with less rounding.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_integer, check_range
from optkit.core.decay import add_decay
from optkit.core.extra_args import require_params
from optkit.core.injection import refuse_arrays
from optkit.core.overwriting import overwrite
from optkit.core.precision import in_float32
from optkit.core.schedules import value_at
from optkit.core.types import AxisName, Mask
from optkit.decentralized._mixing import Mixing, choose_mixing, extrapolate
from optkit.decentralized.topology import Topology, ring
from optkit.method import Method, Paper

__all__ = ["qg_dsgdm"]


class QgDsgdmState(NamedTuple):
    """State of `qg_dsgdm`.

    Attributes:
        count: Number of updates so far, equal on all workers.
        momentum: Moving average of the displacements of the mixed parameters, divided by the learning rate, in float32
            at least. Each worker has its own.
        displacement: Sum of these displacements since `momentum` was last updated. None if it is updated in every step.
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
    """Decentralized SGD whose momentum averages the displacements of the mixed parameters.

    The update rule, where mix is the weighted mean with the neighbours and the gradient g contains the L2 penalty::

        v = momentum * m + (1 - dampening) * g
        h = x - lr * (g + momentum * v)             # with nesterov=False: h = x - lr * v
        x_new = mix(h)
        m = (1 - qg_factor) * m + qg_factor * (x - x_new) / lr
        x = x_new

    By default `qg_factor` is `1 - momentum`. A worker's own momentum would pull it away from the others where their
    data differ; this one follows the direction in which all workers move together. Give each worker its own gradients,
    not averaged. In a chain it must be the last transformation, because it overwrites the parameters.

    Use it when the data of the workers differ and you would use SGD with momentum: it costs no more memory and no more
    messages. Avoid it when the bias must vanish, because its bias is only smaller than that of `gossip`, while
    `gradient_tracking` has none. Avoid learning rates that fall much faster than the workers come together, because the
    momentum is then too large.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. Steps in which it is zero leave the momentum
            as it is.
        topology: Which workers exchange messages, from `optkit.topology`.
        momentum: Weight of the momentum in a step, in [0, 1). With 0 the method is `gossip` of SGD. Default: 0.9.
        weight_decay: Strength of the L2 penalty, at least 0. Default: 0.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        axis_name: Name of the axis over workers.
        mixing: How workers mix their values. Default: `mix`, one weighted mean with the neighbours.
        nesterov: Whether the step has the form of Nesterov's momentum, as in the authors' runs. Default: True.
        dampening: Share of the gradient that is left out of the momentum, in [0, 1]. Default: 0.
        qg_factor: Weight of the last displacement in the moving average, in [0, 1]. The authors' code has 0.1. Default:
            None, `1 - momentum`, as in the paper.
        qg_local_step: Number of steps between two updates of the moving average, an integer, at least 1. The first
            update comes with the first step, whose displacement is divided by this number as if it were a sum of as
            many. Default: None, which is 1.

    Returns:
        An optimizer whose `update` takes the extra argument `links`: which messages arrive, see `mix`. It sends the
        parameters once in each round of the topology. Its state is one number per parameter, two if `qg_local_step` is
        above 1.

    Raises:
        ValueError: If a hyperparameter is out of its range, or `axis_name` is not one name.
        TypeError: If `topology` is not a `Topology`, `mixing` is not a function, or `mask` or `qg_local_step` is an
            array.

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
        arXiv:2102.04761.
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
        summary="Decentralized SGD whose momentum averages the displacements of the mixed parameters.",
        paper=QUASI_GLOBAL,
        also_known_as=("QG-DSGDm", "QG-DSGDm-N", "QGM", "quasi-global momentum"),
        example={"learning_rate": 1e-3, "topology": ring(8), "axis_name": "workers"},
        grid=1e-1,
        needs=("axis_name",),
    ),
)
