"""DADAM: each worker's own Adam, and mixed parameters.

Nazari, Tarzanagh, Michailidis, "DADAM: A Consensus-based Distributed Adaptive Gradient Method for Online Optimization",
2019, arXiv:1901.09109. The rule here is the baseline of that name in the code of quasi-global momentum (Lin et al.,
2021, arXiv:2102.04761): Adam with its bias corrections, and parameters mixed behind the step. The paper's own keeps the
largest second moment and mixes before the step.
"""

import jax
import optax

from optkit.core.checks import check_range
from optkit.core.decay import add_decay
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32
from optkit.core.types import AxisName, Mask
from optkit.decentralized._gossip import Order, named_gossip
from optkit.decentralized._mixing import Mixing
from optkit.decentralized.topology import Topology, ring
from optkit.method import Method, Paper

__all__ = ["dadam"]


def dadam(
    learning_rate: optax.ScalarOrSchedule,
    topology: Topology,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    axis_name: AxisName,
    mixing: Mixing | None = None,
    order: Order = "atc",
) -> optax.GradientTransformationExtraArgs:
    """Takes a step of Adam with each worker's own gradients and moments, and mixes the parameters of neighbours.

    Second moments drift apart where workers' data differ, and with them the lengths of their steps: `qg_dadam` then
    does better. It overwrites parameters. The paper's own form is `gossip(optax.amsgrad(learning_rate), topology,
    axis_name=..., order="cta")`.

    Args:
        learning_rate: a positive number or a schedule.
        topology: who hears whom.
        b1: decay of the first moment, in [0, 1); default 0.9.
        b2: decay of the second moment, in [0, 1); default 0.999.
        eps: added to the root of the second moment, at least 0; default 1e-8.
        weight_decay: times the parameters, added to the gradient, so that Adam rescales it too; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        axis_name: the axis over workers.
        mixing: how values are mixed, see `gossip`.
        order: `"atc"` (default) or `"cta"`, whether mixing comes after the update or before it, see `gossip`.

    Returns:
        An optimizer that takes the extra argument `links`, see `mix`; its state is two numbers a parameter. A step
        sends the parameters once in each round of the topology, in float32 at least.

    Raises:
        ValueError: if a hyperparameter is out of its range, or `axis_name` is not one name.
        TypeError: if `topology` is no `Topology`, `mixing` no function, or `mask` an array.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = dadam(3.0, optkit.topology.ring(4), axis_name="workers")
        >>> def step(params, grads):
        ...     updates, _ = tx.update(grads, tx.init(params), params)
        ...     return optax.apply_updates(params, updates)
        >>> step = optkit.on_workers(step, axis_name="workers", backend="vmap")
        >>> step(jnp.zeros(4), jnp.array([0.0, 0.0, 5.0, 0.0])).round()
        Array([ 0., -1., -1., -1.], dtype=float32)

    Reference:
        Nazari, Tarzanagh, Michailidis, "DADAM: A Consensus-based Distributed Adaptive Gradient Method for Online
        Optimization", 2019, arXiv:1901.09109.
    """
    check_range("b1", b1, 0.0, 1.0, high_open=True)
    check_range("b2", b2, 0.0, 1.0, high_open=True)
    check_range("eps", eps, 0.0)
    refuse_arrays(mask=mask)
    adam = optax.chain(add_decay("dadam", weight_decay, mask), optax.adam(learning_rate, b1, b2, eps))
    return in_float32(named_gossip("dadam", adam, topology, axis_name=axis_name, mixing=mixing, order=order))


METHODS = (
    Method(
        name="dadam",
        factory=dadam,
        kind="optimizer",
        summary="Runs Adam on each worker's own gradients, and mixes the parameters of neighbours.",
        paper=Paper(
            "DADAM: A Consensus-based Distributed Adaptive Gradient Method for Online Optimization",
            "Nazari, Tarzanagh, Michailidis",
            2019,
            "1901.09109",
        ),
        also_known_as=("DAdam", "decentralized Adam", "distributed adaptive moment estimation"),
        example={"learning_rate": 1e-2, "topology": ring(8), "axis_name": "workers"},
        grid=1e-3,
        needs=("axis_name",),
    ),
)
