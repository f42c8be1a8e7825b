"""CHOCO: each worker takes a step of its own optimizer and sends compressed differences of its parameters.

Koloskova, Stich, Jaggi, "Decentralized Stochastic Optimization and Gossip Algorithms with Compressed Communication",
2019, arXiv:1902.00340 (CHOCO-SGD). The order of the steps, adapt then combine, is that of the code of Yan et al., 2023.
"""

from typing import NamedTuple

import jax
import optax

from optkit.compressors import Compressor, top_k
from optkit.core.checks import check_range
from optkit.core.extra_args import require_params
from optkit.core.overwriting import add_update, overwrite
from optkit.core.precision import widen
from optkit.core.types import AxisName
from optkit.decentralized._compressed_exchange import (
    CompressedConsensusState,
    compressed_consensus,
    init_consensus,
    require_constant,
)
from optkit.decentralized.topology import Topology, ring
from optkit.method import Method, Paper

__all__ = ["choco"]


class ChocoState(NamedTuple):
    """State of `choco`.

    Attributes:
        sent: What neighbours know of the parameters. Each worker has its own.
        inner: State of the inner optimizer. Each worker has its own.
    """

    sent: CompressedConsensusState
    inner: optax.OptState


def choco(
    inner: optax.GradientTransformation,
    topology: Topology,
    compressor: Compressor,
    *,
    axis_name: AxisName,
    gamma: jax.typing.ArrayLike,
) -> optax.GradientTransformationExtraArgs:
    """Runs an optimizer on each worker's own gradients, and sends compressed differences of parameters to neighbours.

    The update rule, where i and j are workers, W is the mixing matrix of the topology, and k_i, which starts at zero,
    is what the neighbours know of worker i's parameters::

        h_i = x_i + inner(g_i)
        k_i = k_i + compress(h_i - k_i)
        x_i = h_i + gamma * sum_j W_ij * (k_j - k_i)

    It is `gossip` with compressed messages. Give each worker its own parameters and its own gradients, not averaged,
    and report the mean of the parameters. In a chain it must be the last transformation, because it overwrites the
    parameters.

    Use it when messages are too large for the network. Avoid it when the data of the workers differ much, because it
    has the bias of `gossip`, or when messages get lost: the mean over workers stays the same, but the content of a lost
    message is never sent again. It stores two more numbers per parameter than `inner`.

    Args:
        inner: The optimizer that is wrapped, with its learning rate. Its state is never mixed.
        topology: Which workers exchange messages, from `optkit.topology`. It must be the same in each step.
        compressor: Compresses the messages. It must be contractive, such as `top_k(0.1)`.
        axis_name: Name of the axis over workers.
        gamma: Size of the step towards the neighbours' parameters, in (0, 1]. The more the compressor leaves out, the
            smaller it must be. With 1 and the compressor `identity()` the method is `gossip`.

    Returns:
        An optimizer whose `update` takes the extra argument `links`: which messages arrive, see `mix`. Its state is two
        numbers per parameter and that of `inner`. A step sends the compressed tree, in float32 at least, in each round
        of the topology.

    Raises:
        ValueError: If `gamma` is out of its range, the topology changes from step to step, or `axis_name` is not one
            name.
        TypeError: If `topology` is not a `Topology`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> half = optkit.compressors.top_k(0.5)
        >>> tx = optkit.choco(optax.sgd(0.5), optkit.topology.ring(3), half, axis_name="workers", gamma=0.5)
        >>> def step(params, targets):
        ...     updates, _ = tx.update(params - targets, tx.init(params), params)
        ...     return optax.apply_updates(params, updates)
        >>> step = optkit.on_workers(step, axis_name="workers", backend="vmap")
        >>> step(jnp.zeros((3, 2)), jnp.array([[0.0, 0.0], [6.0, 1.0], [12.0, 2.0]])).tolist()
        [[1.5, 0.0], [3.0, 0.5], [4.5, 1.0]]

    Reference:
        arXiv:1902.00340.
    """
    check_range("gamma", gamma, 0.0, 1.0, low_open=True)
    require_constant(topology, axis_name, "choco")
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        return ChocoState(sent=init_consensus(widen(params), compressor), inner=inner.init(params))

    def update_fn(updates, state, params=None, *, links=None, **extra_args):
        require_params(params, "choco")
        updates, inner_state = inner.update(updates, state.inner, params, links=links, **extra_args)
        moved = jax.tree.map(add_update, widen(params), updates)
        new, sent = compressed_consensus(moved, state.sent, compressor, topology, axis_name, gamma, links)
        return overwrite(new, params), ChocoState(sent=sent, inner=inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


METHODS = (
    Method(
        name="choco",
        factory=choco,
        kind="wrapper",
        summary="Runs any optimizer on each worker, and sends compressed differences of parameters to neighbours.",
        paper=Paper(
            "Decentralized Stochastic Optimization and Gossip Algorithms with Compressed Communication",
            "Koloskova, Stich, Jaggi",
            2019,
            "1902.00340",
        ),
        also_known_as=("CHOCO-SGD", "ChocoSGD", "CHOCO-Gossip"),
        example={"compressor": top_k(0.5), "gamma": 0.5, "topology": ring(8), "axis_name": "workers"},
        grid=0.1,
        needs=("axis_name",),
        golden="choco_sgd",
        learning_rate=1e-3,
    ),
)
