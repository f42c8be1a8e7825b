"""DADAM: each worker runs its own Adam, and neighbours mix their parameters.

Nazari, Tarzanagh, Michailidis, "DADAM: A Consensus-based Distributed Adaptive Gradient Method for Online Optimization",
2019, arXiv:1901.09109. The rule here is the baseline of that name in the code of quasi-global momentum (Lin et al.,
2021, arXiv:2102.04761): Adam with its bias corrections, and parameters that are mixed after the step. The rule in the
paper keeps the largest second moment and mixes before the step.
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
    """Runs Adam on each worker's own gradients, and mixes the parameters of neighbours.

    The update rule, where i and j are workers, W is the mixing matrix of the topology, t is the number of the step, and
    the gradient g_i contains the L2 penalty::

        m_i = b1 * m_i + (1 - b1) * g_i
        v_i = b2 * v_i + (1 - b2) * g_i^2
        h_i = x_i - lr * m_i / (1 - b1^t) / (sqrt(v_i / (1 - b2^t)) + eps)
        x_i = sum_j W_ij * h_j

    The rule of the paper is `gossip(optax.amsgrad(learning_rate), topology, axis_name=..., order="cta")`. In a chain it
    must be the last transformation, because it overwrites the parameters.

    Use it when you would use Adam and the data of the workers are alike. Avoid it when the data differ, because the
    second moments of the workers, and so the lengths of their steps, then drift apart; `qg_dadam` does better there.

    Args:
        learning_rate: The learning rate, a positive number or a schedule.
        topology: Which workers exchange messages, from `optkit.topology`.
        b1: Decay rate of the first moment, in [0, 1). Default: 0.9.
        b2: Decay rate of the second moment, in [0, 1). Default: 0.999.
        eps: Added to the square root of the second moment, at least 0. Default: 1e-8.
        weight_decay: Strength of the L2 penalty, at least 0. Default: 0. Adam rescales the penalty together with the
            gradient.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        axis_name: Name of the axis over workers.
        mixing: See `gossip`. Default: `mix`, one weighted mean with the neighbours.
        order: See `gossip`. Default: "atc", parameters are mixed after the update.

    Returns:
        An optimizer whose `update` takes the extra argument `links`: which messages arrive, see `mix`. A step sends the
        parameters once in each round of the topology, in float32 at least. Its state is two numbers per parameter.

    Raises:
        ValueError: If a hyperparameter is out of its range, or `axis_name` is not one name.
        TypeError: If `topology` is not a `Topology`, `mixing` is not a function, or `mask` is an array.

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
        arXiv:1901.09109.
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
