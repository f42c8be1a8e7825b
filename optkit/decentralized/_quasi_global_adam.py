"""Quasi-global Adam: gossip of Adam whose second moment is that of the way that the mixed parameters went.

Lin, Karimireddy, Stich, Jaggi, "Quasi-Global Momentum: Accelerating Decentralized Deep Learning on Heterogeneous Data",
2021, arXiv:2102.04761. The authors' code (epfml/quasi-global-momentum) has three versions; a fourth follows the paper's
words. Ways are summed, not subtracted, as in `qg_dsgdm`.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_option, check_range
from optkit.core.decay import add_decay
from optkit.core.extra_args import require_params
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32, scalar_dtype
from optkit.core.schedules import value_at
from optkit.core.types import AxisName, Mask
from optkit.decentralized._mixing import Mixing, choose_mixing, overwrite
from optkit.decentralized._quasi_global_momentum import QUASI_GLOBAL
from optkit.decentralized.topology import Topology, ring
from optkit.method import Method

__all__ = ["qg_dadam"]

QgDadamForm = Literal["v0", "v1", "v2", "paper"]

_NORM_EPS = 1e-8


class QgDadamState(NamedTuple):
    """State of `qg_dadam`.

    Attributes:
        count: number of updates so far, equal on all workers.
        mu: first moment, each worker's own, in float32 at least: of gradients in form "v2", of the ways that the mixed
            parameters went, each as long as one, otherwise.
        nu: second moment of these ways, each worker's own, in float32 at least.
    """

    count: jax.typing.ArrayLike
    mu: optax.Updates
    nu: optax.Updates


def qg_dadam(
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
    form: QgDadamForm = "v2",
) -> optax.GradientTransformationExtraArgs:
    """Mixes parameters with the neighbours after steps of Adam whose moments are those of the way that all of them go.

    Ways count by their direction alone: each is divided by its norm over all parameters of a worker. Gradients keep
    their length, so that where they are much longer than 1 the moments are nearly those of the last gradient alone, and
    where they are much shorter steps shrink. It comes last in a chain, since it overwrites parameters. Give each worker
    its own gradients. Where data do not differ much, `gossip` of Adam is the safer choice.

    Args:
        learning_rate: a positive number or a schedule.
        topology: who hears whom.
        b1: decay of the first moment, in [0, 1); default 0.9.
        b2: decay of the second moment, in [0, 1); default 0.999.
        eps: added to the root of the second moment, at least 0; default 1e-8.
        weight_decay: what is added to gradients, times the parameters, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        axis_name: the axis over workers.
        mixing: how values are mixed; None: `mix`, one weighted mean.
        form: "v2" (default), the one that the authors run, keeps a first moment of the worker's own gradients; the
            others have one of ways. Of these "paper" is otherwise equal; in "v0" gradients count fully, not by
            `1 - b1`; in "v1" gradients are divided by their norms: over the first axis in matrices, over all axes but
            the first in leaves of more axes, over the whole leaf in others. Since ways are as long as one, a moment of
            them carries parameters on where gradients are small: these three pass minima that "v2" stops at.

    Returns:
        An optimizer that takes the extra argument `links`, see `mix`. It sends the parameters once in each round of the
        topology, and keeps two numbers a parameter.

    Raises:
        ValueError: if a hyperparameter is out of its range, `form` is unknown, or `axis_name` is not one name.
        TypeError: if `topology` is no `Topology`, `mixing` no function, or `mask` an array.

    Example:
        >>> import optkit
        >>> tx = optkit.qg_dadam(1.5, optkit.topology.ring(3), axis_name="workers")
        >>> def first_update(gradient):
        ...     params = jnp.zeros([])
        ...     return tx.update(gradient, tx.init(params), params)[0]
        >>> jax.vmap(first_update, axis_name="workers")(jnp.array([-6.0, 1.0, 2.0])).round(2)
        Array([-0.5, -0.5, -0.5], dtype=float32)

    Reference:
        Lin, Karimireddy, Stich, Jaggi, "Quasi-Global Momentum: Accelerating Decentralized Deep Learning on
        Heterogeneous Data", 2021, arXiv:2102.04761.
    """
    check_range("b1", b1, 0.0, 1.0, high_open=True)
    check_range("b2", b2, 0.0, 1.0, high_open=True)
    check_range("eps", eps, 0.0)
    refuse_arrays(mask=mask)
    check_option("form", form, QgDadamForm)
    mixing = choose_mixing(mixing, topology, axis_name)

    def init_fn(params):
        return QgDadamState(
            jnp.zeros([], jnp.int32), mu=optax.tree.zeros_like(params), nu=optax.tree.zeros_like(params)
        )

    def update_fn(updates, state, params=None, *, links=None, **extra_args):
        del extra_args
        require_params(params, "qg_dadam")
        rate = value_at(learning_rate, state.count)
        if form == "v1":
            updates = jax.tree.map(_normalize_filters, updates)
        count = optax.safe_increment(state.count)
        mu = optax.tree.update_moment(updates, state.mu, b1, order=1)
        if form == "v0":
            mu = jax.tree.map(lambda m, g: b1 * m + g, state.mu, updates)
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, order=2)
        steps = jnp.asarray(count, scalar_dtype(params))
        corrections = 1 - b1**steps, 1 - b2**steps

        def adam_step(m, v):
            m_hat, v_hat = (x / jnp.asarray(c, x.dtype) for x, c in zip((m, v), corrections, strict=True))
            return jnp.asarray(rate, m.dtype) * m_hat / (jnp.sqrt(v_hat) + eps)

        step = jax.tree.map(adam_step, mu, nu)
        half = optax.tree.sub(params, step)
        new = mixing(half, topology, axis_name, step=state.count, links=links)
        way = jax.tree.map(lambda s, before, after: s + (before - after), step, half, new)  # d = x_t - x_{t+1}
        way = optax.tree.scale(1 / (optax.tree.norm(way) + _NORM_EPS), way)
        mu = mu if form == "v2" else optax.tree.update_moment(way, state.mu, b1, order=1)
        nu = optax.tree.update_moment_per_elem_norm(way, state.nu, b2, order=2)
        mu, nu = optax.tree.cast_like(mu, state.mu), optax.tree.cast_like(nu, state.nu)
        return overwrite(new, params), QgDadamState(count, mu, nu)

    descend = optax.GradientTransformationExtraArgs(init_fn, update_fn)
    return in_float32(optax.chain(add_decay("qg_dadam", weight_decay, mask), descend))


def _normalize_filters(x: jax.Array) -> jax.Array:
    axes = {2: 0}.get(x.ndim, tuple(range(1, x.ndim)) if x.ndim > 2 else None)
    return x / (jnp.sqrt(jnp.sum(jnp.real(jnp.conj(x) * x), axis=axes, keepdims=True)) + _NORM_EPS)


METHODS = (
    Method(
        name="qg_dadam",
        factory=qg_dadam,
        kind="optimizer",
        summary="Decentralized Adam whose second moment is that of the way that the mixed parameters go.",
        paper=QUASI_GLOBAL,
        also_known_as=("QG-DAdam", "quasi-global Adam", "decentralized_qg_adam"),
        example={"learning_rate": 1e-3, "topology": ring(8), "axis_name": "workers"},
        grid=1e-3,
        needs=("axis_name",),
    ),
)
