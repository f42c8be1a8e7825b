"""Gradient tracking: each worker follows an estimate of the mean of all workers' gradients, or of their updates.

Nedic, Olshevsky, Shi, "Achieving Geometric Convergence for Distributed Optimization over Time-Varying Graphs", 2016,
arXiv:1607.03218 (DIGing); Qu, Li, "Harnessing Smoothness to Accelerate Distributed Optimization", 2016,
arXiv:1605.07112. The form that tracks the updates of any optimizer is that of the code (epfml/relaysgd) of Vogels et
al., "RelaySum for Decentralized Deep Learning on Heterogeneous Data", 2021, arXiv:2110.04175. The papers store the
estimate and the last gradient. The code here stores only the difference that the rule needs, which takes half the
memory.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.extra_args import require_params
from optkit.core.overwriting import overwrite
from optkit.core.precision import widen
from optkit.core.types import AxisName
from optkit.decentralized._gossip import gossip
from optkit.decentralized._mixing import Mixing, choose_mixing
from optkit.decentralized.topology import Topology, ring
from optkit.method import Method, Paper

__all__ = ["gradient_tracking", "track_gradients"]


class TrackGradientsState(NamedTuple):
    """State of `track_gradients`.

    Attributes:
        count: Number of updates so far, equal on all workers.
        correction: Is added to the next gradient: `W y - g` of the last step, in float32 at least. Each worker has its
            own; their mean over workers is zero.
    """

    count: jax.typing.ArrayLike
    correction: optax.Updates


class GradientTrackingState(NamedTuple):
    """State of `gradient_tracking`.

    Attributes:
        count: Number of updates so far, equal on all workers.
        correction: Is added to the next update, in float32 at least. Each worker has its own; their mean over workers
            is zero.
        inner: State of the inner optimizer. Each worker has its own.
    """

    count: jax.typing.ArrayLike
    correction: optax.Updates
    inner: optax.OptState


def track_gradients(
    topology: Topology, *, axis_name: AxisName, mixing: Mixing | None = None
) -> optax.GradientTransformationExtraArgs:
    """Replaces each worker's gradient by its estimate of the mean of all workers' gradients.

    The update rule, where i and j are workers, W is the mixing matrix of the topology and c_i starts at zero::

        u_i = g_i + c_i
        c_i = sum_j W_ij * u_j - g_i

    In every step the mean of the estimates u_i over workers equals the mean of the gradients. As the gradients settle,
    the estimates become equal.

    To get DIGing, put it before an optimizer and mix the parameters first: `gossip(optax.chain(track_gradients(...),
    optax.sgd(...)), ..., order="cta")`. Momentum then acts on the estimates. A penalty that is part of the gradient,
    such as L2, must be added before this transformation. Clip gradients before it, too: an infinite gradient stays in
    the estimates of all workers forever.

    Use it when the data of the workers differ and all workers must reach the minimum of the mean loss, also with
    optimizers such as Adam. (`gradient_tracking` around Adam ends where the mean of Adam's updates is zero, which is
    another point.) Avoid it when the data of the workers are alike, because it then gains nothing over `gossip` alone,
    and it sends and stores one more number per parameter.

    Args:
        topology: Which workers exchange messages, from `optkit.topology`.
        axis_name: Name of the axis over workers.
        mixing: How workers mix their values. Default: `mix`, one weighted mean with the neighbours.

    Returns:
        A transformation whose `update` takes the extra argument `links`: which messages arrive, see `mix`. It sends one
        number per parameter in each round of the topology, and its state is one number per parameter.

    Raises:
        ValueError: If `axis_name` is not one name.
        TypeError: If `topology` is not a `Topology`, or `mixing` is not a function.

    Example:
        >>> import optkit
        >>> tx = optkit.track_gradients(optkit.topology.ring(3), axis_name="workers")
        >>> def two_steps(gradient):
        ...     _, state = tx.update(gradient, tx.init(gradient))
        ...     return tx.update(gradient, state)[0]
        >>> jax.vmap(two_steps, axis_name="workers")(jnp.array([0.0, 0.0, 6.0]))
        Array([2., 2., 2.], dtype=float32)

    Reference:
        arXiv:1607.03218.
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

    The update rule, where i and j are workers, W is the mixing matrix of the topology, u_i is the update of `inner` and
    c_i starts at zero::

        u_i = inner(g_i)
        y_i = u_i + c_i
        x_i = sum_j W_ij * (x_j + y_j)
        c_i = sum_j W_ij * y_j - u_i

    With a constant learning rate all workers reach the point where the mean of their updates is zero, even if their
    data differ; `gossip` misses this point. For SGD it is the minimum of the mean loss. For optimizers that rescale
    gradients, such as Adam, it is not: see `track_gradients`.

    Give each worker its own gradients, not averaged. In a chain it must be the last transformation, because it
    overwrites the parameters. Clip inside `inner`: an infinite update stays in the corrections of all workers forever.
    The values that an attacker sends stay there as well, so use mixing that is robust to attackers with `gossip` only.

    Use it when the data of the workers differ and the learning rate is constant or falls slowly. Avoid it when the data
    are alike, because it then gains nothing over `gossip`, or when messages are expensive, because it sends twice as
    many bytes as `gossip` and `exact_diffusion`.

    Args:
        inner: The optimizer that is wrapped, with its learning rate and schedule. Its state is never mixed.
        topology: Which workers exchange messages, from `optkit.topology`.
        axis_name: Name of the axis over workers.
        mixing: How workers mix their values. It is called with parameters and updates in one tree. Default: `mix`, one
            weighted mean with the neighbours.

    Returns:
        An optimizer whose `update` takes the extra argument `links`: which messages arrive, see `mix`. It sends two
        numbers per parameter in each round of the topology, and stores one number per parameter in addition to the
        state of `inner`.

    Raises:
        ValueError: If `axis_name` is not one name.
        TypeError: If `topology` is not a `Topology`, or `mixing` is not a function.

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
        arXiv:1607.03218.
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
        summary="Runs any optimizer on each worker, and follows an estimate of the mean of all workers' updates.",
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
