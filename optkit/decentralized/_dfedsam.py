"""DFedSAM: local steps of sharpness-aware minimization between gossip rounds.

Shi, Shen, Wei, Sun, Yuan, Wang, Tao, "Improving the Model Consistency of Decentralized Federated Learning", 2023,
arXiv:2302.04083. The local loop is that of FedML's trainer: weight decay is added after the sharpness-aware gradient is
computed, and the momentum starts from zero in each round.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_period, check_range
from optkit.core.decay import add_decay
from optkit.core.extra_args import require_params, require_whole_tree, required
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32
from optkit.core.trees import mask_tree, unmask_tree, with_whole_tree
from optkit.core.types import AxisName, Mask
from optkit.decentralized._gossip import named_gossip
from optkit.decentralized._mixing import Mixing, choose_mixing
from optkit.decentralized.topology import Topology, ring
from optkit.method import Method, Paper

__all__ = ["dfedsam"]

_EXAMPLE = "grad_fn=lambda point: jax.grad(loss)(point, batch)"


class TraceOfRoundState(NamedTuple):
    """State of the momentum of `dfedsam`.

    Attributes:
        count: Number of updates so far, equal on all workers.
        inner: State of `optax.trace`. Each worker has its own.
    """

    count: jax.typing.ArrayLike
    inner: optax.OptState


def dfedsam(
    learning_rate: optax.ScalarOrSchedule,
    topology: Topology,
    every: int | jax.Array,
    rho: jax.typing.ArrayLike = 0.05,
    momentum: float | jax.Array = 0.9,
    weight_decay: float | jax.Array = 0.0,
    *,
    axis_name: AxisName,
    mixing: Mixing | None = None,
    mask: Mask | None = None,
    trainable: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Takes sharpness-aware steps on each worker's own data and mixes the parameters once in each round (DFedSAM).

    The update rule of a local step, where `|g|` is the norm of g over all leaves, m is zero at the beginning of each
    round, and mix is the weighted mean with the neighbours::

        d = grad_fn(x + rho * g / |g|) + wd * x
        m = momentum * m + d
        x = x - lr * m
        x = mix(x)                    # in the last step of each round of `every` steps

    With `mixing=repeated_mix(4)` it is DFedSAM-MGS. In a chain it must be the last transformation, because it
    overwrites the parameters.

    Use it when the data of the workers differ, because flat minima of the workers lie nearer to each other than sharp
    ones. Avoid it when the data are alike, because each step costs two gradients and `gossip` does as well for half of
    that.

    **Transformations before it in a chain.** The step follows `grad_fn`, which the earlier transformations of a chain
    do not see: they change only the direction of the ascent, g. To clip, clip both gradients alike, inside `grad_fn`,
    as the example does.

    **Gradient accumulation.** Under `optax.MultiSteps`, `grad_fn` is called for each part of the batch and would have
    to be the gradient of all parts together. Instead, accumulate inside `grad_fn` by a scan over the parts, and call
    `update` once::

        def grad_fn(point):
            def add(total, part):
                return optax.tree.add(total, jax.grad(loss)(point, part)), None

            total, _ = jax.lax.scan(add, optax.tree.zeros_like(point), parts)
            return optax.tree.scale(1 / number_of_parts, total)

    Args:
        learning_rate: The learning rate, a positive number or a schedule. A schedule counts local steps. The paper's
            schedule falls by the factor 0.998 in each round: `optax.exponential_decay(0.1, every, 0.998,
            staircase=True)`.
        topology: Which workers exchange messages, from `optkit.topology`.
        every: Number of local steps in a round, at least 1.
        rho: Length of the ascent before the second gradient, as a norm over all leaves, at least 0; usually from 0.01
            to 0.1. With 0 the method is `gossip` of local SGD. Default: 0.05.
        momentum: Decay rate of the sum of gradients of the round so far, in [0, 1). Default: 0.9.
        weight_decay: Strength of the L2 penalty, at least 0. Default: 0. It is added to the second gradient, and does
            not change the ascent.
        axis_name: Name of the axis over workers.
        mixing: How workers mix their values. Default: `mix`, one weighted mean with the neighbours.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        trainable: Which leaves are trained: a tree of booleans, or a function that makes it from the parameters.
            Default: all. The other leaves are not mixed either, and their updates are zero.

    Returns:
        An optimizer. Its `update` needs the extra argument `grad_fn`, a function that maps parameters to the gradient
        on this worker's own batch, without a mean over workers. It also takes `links`: which messages arrive, see
        `mix`. A round sends the parameters once in each round of the topology and of `mixing`. Its state is one number
        per parameter.

    Raises:
        ValueError: If an argument is out of its range, or `axis_name` is not one name.
        TypeError: If `topology` is not a `Topology`, `mixing` is not a function, or `mask` or `trainable` is an array.
            From `update` if `grad_fn` is missing, and inside `optax.masked` or `optax.partition`.

    Example:
        >>> import optkit
        >>> tx = optkit.dfedsam(0.1, optkit.topology.ring(4), every=1, axis_name="workers")
        >>> clip = optax.clip_by_global_norm(10.0)
        >>> def step(params, targets):
        ...     def grad_fn(x):
        ...         return clip.update(jax.grad(lambda x: jnp.sum((x - targets) ** 2) / 2)(x), clip.init(x))[0]
        ...     updates, _ = tx.update(grad_fn(params), tx.init(params), params, grad_fn=grad_fn)
        ...     return optax.apply_updates(params, updates)
        >>> step = optkit.on_workers(step, axis_name="workers", backend="vmap")
        >>> step(jnp.zeros(4), jnp.array([0.0, 0.0, 6.0, 0.0])).round(3)  # 0.1 * 6.05 / 3
        Array([0.   , 0.202, 0.202, 0.202], dtype=float32)

    Reference:
        arXiv:2302.04083.
    """
    check_period("every", every)
    check_range("rho", rho, 0.0)
    check_range("momentum", momentum, 0.0, 1.0, high_open=True)
    check_range("weight_decay", weight_decay, 0.0)
    refuse_arrays(mask=mask, trainable=trainable)
    mixing = choose_mixing(mixing, topology, axis_name)

    def build(mask, trainable):
        descent = optax.chain(
            add_decay("dfedsam", weight_decay, mask),
            _trace_of_round(momentum, every),
            optax.scale_by_learning_rate(learning_rate),
        )
        local = _sharpness_aware(descent, rho)
        rounds = named_gossip("dfedsam", local, topology, axis_name=axis_name, mixing=mixing, every=every)

        def init_fn(params):
            return rounds.init(mask_tree(trainable, params))

        def update_fn(updates, state, params=None, *, grad_fn: Any = None, links=None, **extra_args):
            del extra_args

            def inside_grad_fn(point):
                return mask_tree(trainable, grad_fn(unmask_tree(point, params)))

            inside, state = rounds.update(
                mask_tree(trainable, updates),
                state,
                mask_tree(trainable, params),
                grad_fn=inside_grad_fn,
                links=links,
            )
            return unmask_tree(inside, optax.tree.zeros_like(updates)), state

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    tx = with_whole_tree(build, mask=mask, trainable=trainable)

    def init_fn(params):
        require_whole_tree(params, "dfedsam")
        return tx.init(params)

    def update_fn(updates, state, params=None, *, grad_fn=None, **extra_args):
        require_params(params, "dfedsam")
        required(grad_fn, "grad_fn", "dfedsam", _EXAMPLE)
        require_whole_tree(updates, "dfedsam")
        return tx.update(updates, state, params, grad_fn=grad_fn, **extra_args)

    return in_float32(optax.GradientTransformationExtraArgs(init_fn, update_fn))


def _sharpness_aware(
    descent: optax.GradientTransformation, rho: jax.typing.ArrayLike
) -> optax.GradientTransformationExtraArgs:
    """Returns `optax.contrib.sam` in one call, which accepts unknown extra arguments and gradients of zero."""

    def update_fn(updates, state, params=None, *, grad_fn: Any = None, **extra_args):
        del extra_args
        length = rho / (optax.tree.norm(updates) + 1e-12)
        point = jax.tree.map(lambda p, g: p + jnp.asarray(length, p.dtype) * g, params, updates)  # the ascent
        return descent.update(grad_fn(point), state, params)

    return optax.GradientTransformationExtraArgs(descent.init, update_fn)


def _trace_of_round(momentum: float | jax.Array, every: int | jax.Array) -> optax.GradientTransformation:
    """Returns `optax.trace` that starts from zero in each round."""
    trace = optax.trace(momentum)  # pyright: ignore[reportArgumentType]

    def init_fn(params):
        return TraceOfRoundState(count=jnp.zeros([], jnp.int32), inner=trace.init(params))

    def update_fn(updates, state, params=None):
        begins = state.count % jnp.asarray(every, state.count.dtype) == 0
        start = optax.tree.where(begins, trace.init(updates), state.inner)
        updates, inner = trace.update(updates, start, params)
        return updates, TraceOfRoundState(count=optax.safe_increment(state.count), inner=inner)

    return optax.GradientTransformation(init_fn, update_fn)


METHODS = (
    Method(
        name="dfedsam",
        factory=dfedsam,
        kind="optimizer",
        summary="Takes local steps of sharpness-aware minimization between rounds of mixing.",
        paper=Paper(
            "Improving the Model Consistency of Decentralized Federated Learning", "Shi et al.", 2023, "2302.04083"
        ),
        also_known_as=("DFedSAM-MGS", "decentralized federated SAM"),
        example={"learning_rate": 8e-4, "topology": ring(8), "every": 2, "rho": 2e-3, "axis_name": "workers"},
        grid=0.03,
        needs=("axis_name", "grad_fn"),
    ),
)
