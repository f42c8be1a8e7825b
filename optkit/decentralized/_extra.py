"""EXTRA: gossip with a correction that is the sum of all past disagreements.

Shi, Ling, Wu, Yin, "EXTRA: An Exact First-Order Algorithm for Decentralized Consensus Optimization", 2014,
arXiv:1404.6264. The paper states the rule for gradient descent at a constant rate, `x_{t+1} = x_t + W x_t - V x_{t-1} -
lr (g_t - g_{t-1})`. Here the same recursion is summed up, so it works around any optimizer and with any schedule.
"""

import numbers
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_range
from optkit.core.extra_args import require_params
from optkit.core.overwriting import add_update, overwrite
from optkit.core.precision import widen
from optkit.core.types import AxisName
from optkit.decentralized._mixing import Mixing, choose_mixing, mix
from optkit.decentralized._stability import require_decay
from optkit.decentralized.topology import Topology, ring
from optkit.method import Method, Paper

__all__ = ["extra"]


class ExtraState(NamedTuple):
    """State of `extra`.

    Attributes:
        count: Number of updates so far, equal on all workers.
        correction: The sum of what mixing has added to the parameters, times `1 - w_tilde_coeff`, in float32 at least.
            Each worker has its own; their mean over workers is zero.
        inner: State of the inner optimizer. Each worker has its own.
    """

    count: jax.typing.ArrayLike
    correction: optax.Updates
    inner: optax.OptState


def extra(
    inner: optax.GradientTransformation,
    topology: Topology,
    *,
    axis_name: AxisName,
    mixing: Mixing | None = None,
    w_tilde_coeff: jax.typing.ArrayLike = 0.5,
) -> optax.GradientTransformationExtraArgs:
    """Runs an optimizer on each worker's own gradients and adds its updates to the mixed parameters, without bias.

    The update rule, where i and j are workers, W is the mixing matrix of the topology, c is `w_tilde_coeff`, u_i is the
    update of `inner` and s_i starts at zero. All right-hand sides have the old x_i and s_i::

        u_i = inner(g_i)
        m_i = sum_j W_ij * x_j
        x_i = m_i + u_i + s_i
        s_i = s_i + (1 - c) * (m_i - x_i)

    With a constant learning rate all workers reach the point where the mean of their updates is zero, even if their
    data differ; `gossip` misses this point. Give each worker its own gradients, not averaged. In a chain it must be the
    last transformation, because it overwrites the parameters.

    Use it when the data of the workers differ and messages should travel while gradients are computed; it sends no more
    than `gossip`. Avoid it when the learning rate must be large, because its largest value depends on the topology: for
    gradient descent it must stay below twice the smallest eigenvalue of `V = c W + (1 - c) I`, divided by the curvature
    of the loss. `nids` has no such limit. Avoid it, too, when links fail in one direction only, because the mean over
    workers then moves and does not come back.

    Args:
        inner: The optimizer that is wrapped, with its learning rate. Its state is never mixed.
        topology: Which workers exchange messages, from `optkit.topology`.
        axis_name: Name of the axis over workers.
        mixing: How workers mix their values. With anything but `mix` the topology is not checked. Default: `mix`, one
            weighted mean with the neighbours.
        w_tilde_coeff: Share c of W in the matrix of the second mixing, `V = c W + (1 - c) I`. The paper allows [0.5,
            1). The sum of disagreements is weighted by `1 - c`. Default: 0.5, as in the paper.

    Returns:
        An optimizer whose `update` takes the extra argument `links`: which messages arrive, see `mix`. It sends the
        parameters once in each round of the topology, and stores one number per parameter in addition to the state of
        `inner`.

    Raises:
        ValueError: If `w_tilde_coeff` is negative, the method does not settle on the topology with it, or `axis_name`
            is not one name.
        TypeError: If `topology` is not a `Topology`, or `mixing` is not a function.

    Example:
        >>> import optkit
        >>> tx = optkit.extra(optax.sgd(0.5), optkit.topology.ring(3), axis_name="workers")
        >>> def train(target):
        ...     params = jnp.zeros([])
        ...     state = tx.init(params)
        ...     for _ in range(50):
        ...         updates, state = tx.update(params - target, state, params)
        ...         params = optax.apply_updates(params, updates)
        ...     return params
        >>> jax.vmap(train, axis_name="workers")(jnp.array([0.0, 0.0, 6.0])).round(3)
        Array([2., 2., 2.], dtype=float32)

    Reference:
        arXiv:1404.6264.
    """
    check_range("w_tilde_coeff", w_tilde_coeff, 0.0)
    mixing = choose_mixing(mixing, topology, axis_name)
    memory = 1 - w_tilde_coeff
    if mixing is mix and isinstance(w_tilde_coeff, numbers.Real):
        require_decay(
            "extra",
            topology,
            lambda mixing, one: [[mixing, one], [memory * (mixing - one), one]],
            f"Use w_tilde_coeff in [0.5, 1), got {w_tilde_coeff:g}, and a symmetric topology, or gradient_tracking",
        )
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        return ExtraState(jnp.zeros([], jnp.int32), optax.tree.zeros_like(widen(params)), inner.init(params))

    def update_fn(updates, state, params=None, *, links=None, **extra_args):
        require_params(params, "extra")
        updates, inner_state = inner.update(updates, state.inner, params, links=links, **extra_args)
        wide = widen(params)
        mixed = mixing(wide, topology, axis_name, step=state.count, links=links)
        # x_{t+1} = W x_t + u_t + sum of (W - V) x_s over all earlier s
        new = optax.tree.add(jax.tree.map(add_update, mixed, updates), state.correction)

        def corrected(c, x, p):
            return c + jnp.asarray(memory, c.dtype) * (x - p)

        correction = jax.tree.map(corrected, state.correction, mixed, wide)
        return overwrite(new, params), ExtraState(optax.safe_increment(state.count), correction, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


METHODS = (
    Method(
        name="extra",
        factory=extra,
        kind="wrapper",
        summary="Runs any optimizer, adds its updates to mixed parameters, and corrects these by past disagreements.",
        paper=Paper(
            "EXTRA: An Exact First-Order Algorithm for Decentralized Consensus Optimization",
            "Shi, Ling, Wu, Yin",
            2014,
            "1404.6264",
        ),
        also_known_as=("exact first-order algorithm",),
        example={"topology": ring(8), "axis_name": "workers"},
        grid=1e-1,
        needs=("axis_name",),
    ),
)
