"""Exact diffusion (D2): gossip that corrects what mixing changed, and so has no bias where workers' data differ.

Tang, Lian, Yan, Zhang, Liu, "D2: Decentralized Training over Decentralized Data", 2018, arXiv:1803.07068; Yuan, Ying,
Zhao, Sayed, "Exact Diffusion for Distributed Optimization and Learning", 2017, arXiv:1702.05122 (D2 on the lazy
topology). Both papers state the rule for gradient descent at a constant rate, `x <- W (2 x_t - x_{t-1} - lr (g_t -
g_{t-1}))`. The form here, around any optimizer, is that of Vogels et al., arXiv:2110.04175 (epfml/relaysgd). The
scaling of corrections with the learning rate is that of Lin et al., arXiv:2102.04761 (epfml/quasi-global-momentum).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.extra_args import require_params
from optkit.core.overwriting import add_update, overwrite
from optkit.core.precision import widen
from optkit.core.schedules import value_at
from optkit.core.types import AxisName
from optkit.decentralized._mixing import Mixing, choose_mixing, mix
from optkit.decentralized._stability import require_decay
from optkit.decentralized.topology import Topology, path, ring
from optkit.method import Method, Paper, Variant

__all__ = ["exact_diffusion"]


class ExactDiffusionState(NamedTuple):
    """State of `exact_diffusion`.

    Attributes:
        count: Number of updates so far, equal on all workers.
        correction: Sum of what mixing has added to the parameters, in float32 at least; divided by the learning rate if
            that is given. Each worker has its own; their mean over workers is zero.
        inner: State of the inner optimizer. Each worker has its own.
    """

    count: jax.typing.ArrayLike
    correction: optax.Updates
    inner: optax.OptState


def exact_diffusion(
    inner: optax.GradientTransformation,
    topology: Topology,
    *,
    axis_name: AxisName,
    mixing: Mixing | None = None,
    learning_rate: optax.ScalarOrSchedule | None = None,
    mix_first_step: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Runs an optimizer on each worker's own gradients and mixes the parameters, without the bias of `gossip`.

    The update rule, where i and j are workers, W is the mixing matrix of the topology, u_i is the update of `inner` and
    c_i starts at zero::

        u_i = inner(g_i)
        h_i = x_i + u_i + c_i
        x_i = sum_j W_ij * h_j
        c_i = c_i + x_i - h_i

    With a constant learning rate all workers reach the point where the mean of their updates is zero, even if their
    data differ; `gossip` misses this point. For SGD it is the minimum of the mean loss. For optimizers that rescale
    gradients, such as Adam, it is not: see `track_gradients`. Give each worker its own gradients, not averaged. In a
    chain it must be the last transformation, because it overwrites the parameters.

    Use it when the data of the workers differ and messages are expensive: it sends no more than `gossip`. Avoid it when
    links fail in one direction only, because the mean over workers then moves and does not come back; and in long runs
    in float32, where rounding moves that mean ten times as far as it does in `gradient_tracking`.

    Args:
        inner: The optimizer that is wrapped, with its learning rate. Its state is never mixed.
        topology: Which workers exchange messages, from `optkit.topology`. If it is symmetric, all eigenvalues must be
            above -1/3, which is not so for rings of even size. Other topologies are checked, too. If a topology is
            refused, `topology.lazy()` helps in most cases; with it this is exact diffusion as published.
        axis_name: Name of the axis over workers.
        mixing: How workers mix their values. With anything but `mix` the topology is not checked. Default: `mix`, one
            weighted mean with the neighbours.
        learning_rate: The learning rate, a positive number or a schedule. Give here the schedule of `inner` if it
            changes: corrections then change in proportion. Do not give a schedule that falls to zero and rises again.
            Default: None, the corrections are not scaled, and settle again after each change of the learning rate.
        mix_first_step: Whether the first step mixes, too, as in D2. If not, each worker takes its first step without
            mixing, as in NIDS. Default: True.

    Returns:
        An optimizer whose `update` takes the extra argument `links`: which messages arrive, see `mix`. It sends the
        parameters once in each round of the topology, and stores one number per parameter in addition to the state of
        `inner`.

    Raises:
        ValueError: If the method does not settle on the topology, or `axis_name` is not one name.
        TypeError: If `topology` is not a `Topology`, or `mixing` is not a function.

    Example:
        >>> import optkit
        >>> tx = optkit.exact_diffusion(optax.sgd(0.5), optkit.topology.ring(3), axis_name="workers")
        >>> def train(target):
        ...     params = jnp.zeros([])
        ...     state = tx.init(params)
        ...     for _ in range(20):
        ...         updates, state = tx.update(params - target, state, params)
        ...         params = optax.apply_updates(params, updates)
        ...     return params
        >>> jax.vmap(train, axis_name="workers")(jnp.array([0.0, 0.0, 6.0])).round(3)
        Array([2., 2., 2.], dtype=float32)

    Reference:
        arXiv:1803.07068.
        arXiv:1702.05122.
    """
    mixing = choose_mixing(mixing, topology, axis_name)
    if mixing is mix:
        require_decay("exact_diffusion", topology, diffusion_step, "Use topology.lazy(), or gradient_tracking")
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        correction = optax.tree.zeros_like(widen(params))
        return ExactDiffusionState(jnp.zeros([], jnp.int32), correction, inner.init(params))

    def update_fn(updates, state, params=None, *, links=None, **extra_args):
        require_params(params, "exact_diffusion")
        updates, inner_state = inner.update(updates, state.inner, params, links=links, **extra_args)
        rate = 1.0 if learning_rate is None else learning_rate
        rate = value_at(rate, state.count)
        # At a learning rate of zero the correction stays as it is.
        inverse = jnp.where(rate == 0, 0, 1 / jnp.where(rate == 0, 1, rate))

        def moved(p, u, c):
            return add_update(p, u) + jnp.asarray(rate, p.dtype) * c

        half = jax.tree.map(moved, widen(params), updates, state.correction)
        new = mixing(half, topology, axis_name, step=state.count, links=links)  # x_{t+1} = W x_{t+1/2}
        if not mix_first_step:
            new = optax.tree.where(state.count == 0, half, new)

        def corrected(c, x, h):
            return c + jnp.asarray(inverse, c.dtype) * (x - h)

        correction = jax.tree.map(corrected, state.correction, new, half)
        count = optax.safe_increment(state.count)
        return overwrite(new, params), ExactDiffusionState(count, correction, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def diffusion_step(mixing, one):
    """Returns the blocks of a step without gradients, `x <- W (x + c)` and `c <- c + W (x + c) - (x + c)`."""
    return [[mixing, mixing], [mixing - one, mixing]]


METHODS = (
    Method(
        name="exact_diffusion",
        factory=exact_diffusion,
        kind="wrapper",
        summary="Runs any optimizer and mixes parameters, with a correction that removes the bias where data differ.",
        paper=Paper("D2: Decentralized Training over Decentralized Data", "Tang et al.", 2018, "1803.07068"),
        also_known_as=("D2", "D²", "decentralized training over decentralized data"),
        example={"topology": ring(8).lazy(), "axis_name": "workers"},
        grid=1e-1,
        needs=("axis_name",),
        variants={"d2": Variant({"topology": path(8)}, grid=1e-1)},
        golden="d2",
    ),
)
