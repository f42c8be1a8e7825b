"""CHOCO: each worker takes its own optimizer's step and sends compressed differences of its parameters.

Koloskova, Stich, Jaggi, "Decentralized Stochastic Optimization and Gossip Algorithms with Compressed Communication",
2019, arXiv:1902.00340 (CHOCO-SGD), in the order of the code of Yan et al., 2023: adapt, then combine.
"""

from typing import NamedTuple

import jax
import optax

from optkit.compressors import Compressor, top_k
from optkit.core.checks import check_range
from optkit.core.extra_args import require_params
from optkit.core.precision import widen
from optkit.core.types import AxisName
from optkit.decentralized._compressed_exchange import (
    CompressedConsensusState,
    compressed_consensus,
    init_consensus,
    require_constant,
)
from optkit.decentralized._mixing import add_update, overwrite
from optkit.decentralized.topology import Topology, ring
from optkit.method import Method, Paper

__all__ = ["choco"]


class ChocoState(NamedTuple):
    """State of `choco`.

    Attributes:
        sent: what neighbours know of the parameters; each worker's own.
        inner: state of the inner optimizer, each worker's own.
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

    It is `gossip` with compressed messages, and has its bias where workers' data differ. Give each worker its own
    gradients, not averaged, and its own parameters, and report the mean of these. It overwrites parameters and comes
    last in a chain.

    Args:
        inner: an optimizer, learning rate included; its state is never mixed.
        topology: who hears whom, the same in each step.
        compressor: of what is sent, contractive, such as `top_k(0.1)`.
        axis_name: the axis over workers.
        gamma: how far parameters move towards the neighbours', in (0, 1]: the smaller the more the compressor forgets.
            With `identity()` and 1 it is `gossip`.

    Returns:
        An optimizer that takes the extra argument `links`, see `mix`: a lost message keeps the mean over workers, but
        what it said is never made up for. Its state is two numbers a parameter and the inner one's. A step sends the
        compressed tree, in float32 at least, in each of the topology's rounds.

    Raises:
        ValueError: if `gamma` is out of its range, the topology changes from step to step, or `axis_name` is not one
            name.
        TypeError: if `topology` is no `Topology`.

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
        Koloskova, Stich, Jaggi, "Decentralized Stochastic Optimization and Gossip Algorithms with Compressed
        Communication", 2019, arXiv:1902.00340.
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
