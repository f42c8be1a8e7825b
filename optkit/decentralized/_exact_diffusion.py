"""Exact diffusion (D2): gossip that remembers what mixing took away, and so has no bias where workers' data differ.

Tang, Lian, Yan, Zhang, Liu, "D2: Decentralized Training over Decentralized Data", 2018, arXiv:1803.07068; Yuan, Ying,
Zhao, Sayed, "Exact Diffusion for Distributed Optimization and Learning", 2017, arXiv:1702.05122 (D2 on the lazy
topology). Both are printed for gradient descent at a constant rate, `x <- W (2 x_t - x_{t-1} - lr (g_t - g_{t-1}))`.
The form here, around any optimizer, is that of Vogels et al., arXiv:2110.04175 (epfml/relaysgd); the scaling of
corrections with the learning rate is that of Lin et al., arXiv:2102.04761 (epfml/quasi-global-momentum).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.extra_args import require_params
from optkit.core.precision import widen
from optkit.core.schedules import value_at
from optkit.core.types import AxisName
from optkit.decentralized._mixing import Mixing, add_update, choose_mixing, mix, overwrite
from optkit.decentralized._stability import require_decay
from optkit.decentralized.topology import Topology, path, ring
from optkit.method import Method, Paper, Variant

__all__ = ["exact_diffusion"]


class ExactDiffusionState(NamedTuple):
    """State of `exact_diffusion`.

    Attributes:
        count: number of updates so far, equal on all workers.
        correction: sum of what mixing has added to the parameters, in units of the learning rate if that is given, each
            worker's own, in float32 at least. Its mean over workers is zero.
        inner: state of the inner optimizer, each worker's own.
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
    """Runs an optimizer on each worker's own gradients and mixes its parameters, corrected for what workers differ by.

    Where workers' data differ, all reach the point where the mean of their updates is zero, with a constant learning
    rate, which `gossip` misses; messages are those of `gossip`. It comes last in a chain, since it overwrites
    parameters. Give each worker its own gradients. For optimizers that rescale, such as Adam, that point is not the
    minimum of the mean loss, see `track_gradients`. Where links fail one way only the mean is lost for ever; and in
    float32 rounding moves it, in long runs ten times as far as that of `gradient_tracking`.

    Args:
        inner: an optimizer, learning rate included; its state is never mixed.
        topology: who hears whom. A symmetric one must have eigenvalues above -1/3 (rings of even size do not), others
            are checked too: `topology.lazy()` mostly helps, and on it this is exact diffusion as printed.
        axis_name: the axis over workers.
        mixing: how values are mixed; None: `mix`, one weighted mean. With another the topology is not checked.
        learning_rate: that of `inner`, if it changes: corrections then change with it. Default none: after a change
            they settle anew. Do not give one that falls to zero and rises again.
        mix_first_step: whether the first update is mixed, too, as in D2 (default); if not, the first parameters that
            are sent differ by an update each, as in NIDS.

    Returns:
        An optimizer that takes the extra argument `links`, see `mix`. It sends the parameters once in each round of the
        topology, and keeps one number a parameter beside the inner state.

    Raises:
        ValueError: if it does not settle on the topology, or `axis_name` is not one name.
        TypeError: if `topology` is no `Topology`, or `mixing` no function.

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
        Tang et al., "D2: Decentralized Training over Decentralized Data", 2018, arXiv:1803.07068; Yuan et al., "Exact
        Diffusion for Distributed Optimization and Learning", 2017, arXiv:1702.05122.
    """
    mixing = choose_mixing(mixing, topology, axis_name)
    if mixing is mix:
        require_decay("exact_diffusion", topology, diffusion_step, "Take topology.lazy(), or gradient_tracking")
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        correction = optax.tree.zeros_like(widen(params))
        return ExactDiffusionState(jnp.zeros([], jnp.int32), correction, inner.init(params))

    def update_fn(updates, state, params=None, *, links=None, **extra_args):
        require_params(params, "exact_diffusion")
        updates, inner_state = inner.update(updates, state.inner, params, links=links, **extra_args)
        rate = 1.0 if learning_rate is None else learning_rate
        rate = value_at(rate, state.count)
        # At a rate of zero there is no correction to learn.
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
    """Gives the blocks of a step without gradients, `x <- W (x + c)` and `c <- c + W (x + c) - (x + c)`."""
    return [[mixing, mixing], [mixing - one, mixing]]


METHODS = (
    Method(
        name="exact_diffusion",
        factory=exact_diffusion,
        kind="wrapper",
        summary="Runs any optimizer, and corrects mixing by the sum of what it did: it has no bias where data differ.",
        paper=Paper("D2: Decentralized Training over Decentralized Data", "Tang et al.", 2018, "1803.07068"),
        also_known_as=("D2", "D²", "decentralized training over decentralized data"),
        example={"topology": ring(8).lazy(), "axis_name": "workers"},
        grid=1e-1,
        needs=("axis_name",),
        variants={"d2": Variant({"topology": path(8)}, grid=1e-1)},
        golden="d2",
    ),
)
