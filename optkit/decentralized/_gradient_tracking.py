"""Gradient tracking: each worker follows an estimate of the mean of all workers' gradients, or of their updates.

Nedic, Olshevsky, Shi, "Achieving Geometric Convergence for Distributed Optimization over Time-Varying Graphs", 2016,
arXiv:1607.03218 (DIGing); Qu, Li, "Harnessing Smoothness to Accelerate Distributed Optimization", 2016,
arXiv:1605.07112. The form that tracks the updates of any optimizer is that of the code (epfml/relaysgd) of Vogels et
al., "RelaySum for Decentralized Deep Learning on Heterogeneous Data", 2021, arXiv:2110.04175. Papers keep the estimate
and the last gradient; kept here is what the two come to, half as much.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.extra_args import require_params
from optkit.core.precision import widen
from optkit.core.types import AxisName
from optkit.decentralized._gossip import gossip
from optkit.decentralized._mixing import Mixing, choose_mixing, overwrite
from optkit.decentralized.topology import Topology, ring
from optkit.method import Method, Paper

__all__ = ["gradient_tracking", "track_gradients"]


class TrackGradientsState(NamedTuple):
    """State of `track_gradients`.

    Attributes:
        count: number of updates so far, equal on all workers.
        correction: what to add to the next gradient, `W y - g` of the last step, each worker's own, in float32 at
            least. Its mean over workers is zero.
    """

    count: jax.typing.ArrayLike
    correction: optax.Updates


class GradientTrackingState(NamedTuple):
    """State of `gradient_tracking`.

    Attributes:
        count: number of updates so far, equal on all workers.
        correction: what to add to the next update, each worker's own, in float32 at least. Its mean over workers is
            zero.
        inner: state of the inner optimizer, each worker's own.
    """

    count: jax.typing.ArrayLike
    correction: optax.Updates
    inner: optax.OptState


def track_gradients(
    topology: Topology, *, axis_name: AxisName, mixing: Mixing | None = None
) -> optax.GradientTransformationExtraArgs:
    """Replaces each worker's gradient by its estimate of the mean of all workers' gradients.

    The mean of the estimates is that of the gradients in every step, and they come together as gradients settle. In
    front of an optimizer whose parameters are mixed first, it makes DIGing: `gossip(optax.chain(track_gradients(...),
    optax.sgd(...)), ..., order="cta")`. There momentum acts on the estimates; weight decay that is part of the
    gradient goes in front. Clip gradients before this: an infinite one stays in all workers' estimates for ever. In
    front of Adam, too, all workers reach the minimum of the mean loss, where `gradient_tracking` around Adam ends where
    the mean of Adam's updates is zero, another point. Where data do not differ it gains nothing over `gossip`.

    Args:
        topology: who hears whom.
        axis_name: the axis over workers.
        mixing: how values are mixed; None: `mix`, one weighted mean.

    Returns:
        A transformation that takes the extra argument `links`, see `mix`. It sends one number a parameter in each round
        of the topology and keeps one.

    Raises:
        ValueError: if `axis_name` is not one name.
        TypeError: if `topology` is no `Topology`, or `mixing` no function.

    Example:
        >>> import optkit
        >>> tx = optkit.track_gradients(optkit.topology.ring(3), axis_name="workers")
        >>> def two_steps(gradient):
        ...     _, state = tx.update(gradient, tx.init(gradient))
        ...     return tx.update(gradient, state)[0]
        >>> jax.vmap(two_steps, axis_name="workers")(jnp.array([0.0, 0.0, 6.0]))
        Array([2., 2., 2.], dtype=float32)

    Reference:
        Nedic, Olshevsky, Shi, "Achieving Geometric Convergence for Distributed Optimization over Time-Varying Graphs",
        2016, arXiv:1607.03218.
    """
    mixing = choose_mixing(mixing, topology, axis_name)

    def init_fn(params):
        return TrackGradientsState(jnp.zeros([], jnp.int32), optax.tree.zeros_like(widen(params)))

    def update_fn(updates, state, params=None, *, links=None, **extra_args):
        del params, extra_args
        # Cast, since an injected learning rate may have widened the updates.
        own = optax.tree.cast_like(updates, state.correction)
        tracked = optax.tree.add(own, state.correction)  # y_t = W y_{t-1} + g_t - g_{t-1}
        mixed = mixing(tracked, topology, axis_name, step=state.count, links=links)
        correction = optax.tree.sub(mixed, own)
        return optax.tree.cast_like(tracked, updates), TrackGradientsState(
            optax.safe_increment(state.count), correction
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def gradient_tracking(
    inner: optax.GradientTransformation, topology: Topology, *, axis_name: AxisName, mixing: Mixing | None = None
) -> optax.GradientTransformationExtraArgs:
    """Runs an optimizer on each worker's own gradients, tracks the mean of all updates, and mixes the parameters.

    Where workers' data differ, all reach the point where the mean of their updates is zero, with a constant learning
    rate, which `gossip` misses. For SGD it is the minimum of the mean loss; for optimizers that rescale, such as Adam,
    it is not, see `track_gradients`. It comes last in a chain, since it overwrites parameters. Give each worker its own
    gradients. It sends twice what `gossip` and `exact_diffusion` do. Clip inside `inner`: an infinite update stays in
    all workers' corrections for ever, and so does what an attacker says: robust mixing belongs into `gossip`. Where
    data do not differ it gains nothing over `gossip`.

    Args:
        inner: an optimizer, learning rate and its schedule included; its state is never mixed.
        topology: who hears whom.
        axis_name: the axis over workers.
        mixing: how values are mixed; None: `mix`, one weighted mean. It gets parameters and updates in one tree.

    Returns:
        An optimizer that takes the extra argument `links`, see `mix`. It sends two numbers a parameter in each round of
        the topology, and keeps one beside the inner state.

    Raises:
        ValueError: if `axis_name` is not one name.
        TypeError: if `topology` is no `Topology`, or `mixing` no function.

    Example:
        >>> import optkit
        >>> tx = optkit.gradient_tracking(optax.sgd(0.5), optkit.topology.ring(3), axis_name="workers")
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
        Nedic, Olshevsky, Shi, "Achieving Geometric Convergence for Distributed Optimization over Time-Varying Graphs",
        2016, arXiv:1607.03218; Vogels et al., "RelaySum for Decentralized Deep Learning on Heterogeneous Data", 2021,
        arXiv:2110.04175.
    """
    mixing = choose_mixing(mixing, topology, axis_name)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        correction = optax.tree.zeros_like(widen(params))
        return GradientTrackingState(jnp.zeros([], jnp.int32), correction, inner.init(params))

    def update_fn(updates, state, params=None, *, links=None, **extra_args):
        require_params(params, "gradient_tracking")
        updates, inner_state = inner.update(updates, state.inner, params, links=links, **extra_args)
        own = optax.tree.cast_like(updates, state.correction)
        tracked = optax.tree.add(own, state.correction)
        moved = optax.tree.add(widen(params), tracked)
        new, mixed = mixing((moved, tracked), topology, axis_name, step=state.count, links=links)  # W (x + u + c)
        correction = optax.tree.sub(mixed, own)  # W (u + c) - u
        count = optax.safe_increment(state.count)
        return overwrite(new, params), GradientTrackingState(count, correction, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


RELAY = Paper("RelaySum for Decentralized Deep Learning on Heterogeneous Data", "Vogels et al.", 2021, "2110.04175")


def _diging(build: functools.partial, learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    inner = optax.chain(build(), optax.sgd(learning_rate, momentum=0.9))
    return gossip(inner, **build.keywords, order="cta")


METHODS = (
    Method(
        name="gradient_tracking",
        factory=gradient_tracking,
        kind="wrapper",
        summary="Runs any optimizer, and lets each worker follow an estimate of the mean of all workers' updates.",
        paper=RELAY,
        also_known_as=("GT", "DSGT", "DGT", "GT-DSGD", "distributed stochastic gradient tracking"),
        example={"topology": ring(8), "axis_name": "workers"},
        grid=1e-1,
        needs=("axis_name",),
    ),
    Method(
        name="track_gradients",
        factory=track_gradients,
        kind="transformation",
        compose=_diging,
        summary="Replaces each worker's gradient by its estimate of the mean of all workers' gradients.",
        paper=Paper(
            "Achieving Geometric Convergence for Distributed Optimization over Time-Varying Graphs",
            "Nedic, Olshevsky, Shi",
            2016,
            "1607.03218",
        ),
        also_known_as=("DIGing", "harnessing smoothness"),
        example={"topology": ring(8), "axis_name": "workers"},
        grid=1e-1,
        needs=("axis_name",),
        golden="gradient_tracking",
    ),
)
