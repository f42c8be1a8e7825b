"""EXTRA: gossip with the sum of all past disagreements in its memory.

Shi, Ling, Wu, Yin, "EXTRA: An Exact First-Order Algorithm for Decentralized Consensus Optimization", 2014,
arXiv:1404.6264. Printed for gradient descent at a constant rate, `x_{t+1} = x_t + W x_t - V x_{t-1} - lr (g_t -
g_{t-1})`; the same recursion, summed up, stands around any optimizer and takes any schedule.
"""

import numbers
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_range
from optkit.core.extra_args import require_params
from optkit.core.precision import widen
from optkit.core.types import AxisName
from optkit.decentralized._mixing import Mixing, add_update, choose_mixing, mix, overwrite
from optkit.decentralized._stability import require_decay
from optkit.decentralized.topology import Topology, ring
from optkit.method import Method, Paper

__all__ = ["extra"]


class ExtraState(NamedTuple):
    """State of `extra`.

    Attributes:
        count: number of updates so far, equal on all workers.
        correction: `1 - w_tilde_coeff` times the sum of what mixing has added to the parameters, each worker's own, in
            float32 at least. Its mean over workers is zero.
        inner: state of the inner optimizer, each worker's own.
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

    Where workers' data differ, all reach the point where the mean of their updates is zero, with a constant learning
    rate, which `gossip` misses; messages are those of `gossip`, and can travel while gradients are computed. It comes
    last in a chain, since it overwrites parameters. Give each worker its own gradients. The largest learning rate
    depends on the topology: gradient descent takes less than twice the smallest eigenvalue of `V`, over the curvature;
    `nids` has no such limit. Where links fail one way only the mean is lost for ever.

    Args:
        inner: an optimizer, learning rate included; its state is never mixed.
        topology: who hears whom.
        axis_name: the axis over workers.
        mixing: how values are mixed; None: `mix`, one weighted mean. With another the topology is not checked.
        w_tilde_coeff: share c of W in the matrix of the second mixing, `V = c W + (1 - c) I`, in [0.5, 1) by the
            paper; default 0.5, its own choice. The sum of disagreements counts by `1 - c`.

    Returns:
        An optimizer that takes the extra argument `links`, see `mix`. It sends the parameters once in each round of the
        topology, and keeps one number a parameter beside the inner state.

    Raises:
        ValueError: if `w_tilde_coeff` is negative, the method does not settle on the topology with it, or `axis_name`
            is not one name.
        TypeError: if `topology` is no `Topology`, or `mixing` no function.

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
        Shi, Ling, Wu, Yin, "EXTRA: An Exact First-Order Algorithm for Decentralized Consensus Optimization", 2014,
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
            f"Take w_tilde_coeff in [0.5, 1), it is {w_tilde_coeff:g}, and a symmetric topology, or gradient_tracking",
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
        summary="Runs any optimizer on mixed parameters, and corrects them by the sum of all past disagreements.",
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
