"""Delayed dual averaging: steps from the start along the sum of all gradients, however late they come.

Hsieh, Iutzeler, Malick, Mertikopoulos, "Multi-Agent Online Optimization with Delays: Asynchronicity, Adaptivity, and
Optimism", 2020, arXiv:2012.11579. The authors' code is not public, and the rule was checked against nothing but its
special cases: experimental. Time is counted in gradients that have arrived.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_integer, check_range
from optkit.core.extra_args import require_params
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32, scalar_dtype
from optkit.core.trees import copy
from optkit.decentralized._mixing import overwrite
from optkit.method import Method, Paper

__all__ = ["delayed_dual_averaging"]


class DelayedDualAveragingState(NamedTuple):
    """State of `delayed_dual_averaging`.

    Attributes:
        count: number of gradients so far.
        start: the parameters that it began with.
        total: the sum of all gradients.
        lag: the sum of squared norms, and of twice the products of the norms of gradients that did not know of each
            other.
        norms: of the last `max_delay` gradients, the last one first; None if it is 0.
        sum_of_norms: of all gradients.
    """

    count: jax.typing.ArrayLike
    start: optax.Params
    total: optax.Updates
    lag: jax.Array
    norms: Any
    sum_of_norms: jax.Array


def delayed_dual_averaging(
    radius: jax.typing.ArrayLike,
    max_delay: int | None = None,
    slack: jax.typing.ArrayLike = 1e-8,
    *,
    optimistic: bool = False,
    projection: Callable[[Any], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Dual averaging with steps that shrink with the gradients and with how late they come: for asynchronous workers.

    Each call brings one gradient, in any order, and all workers may read the parameters at any time. Parameters are
    `start - rate * (sum of gradients)`, with a rate that never rises, and that counts two gradients twice if neither
    was known where the other was taken. It comes last in a chain, since it overwrites parameters. Do not take it where
    gradients come in time and a learning rate is known: it never forgets the start. Experimental: the authors' code is
    not public.

    Args:
        radius: about how far from the start the solution lies, above 0: the rate is it over the square root of the lag.
        max_delay: how many gradients may arrive between reading the parameters and bringing a gradient, for the rate
            to know it exactly; at least 0. None: 0. A gradient that is older counts as if it knew none of the others,
            and makes the rate smaller than it must be.
        slack: is added to the lag, above 0; default 1e-8. The theory's, for gradients of norm G that come up to tau
            late, is `(G * (2 * tau + 1)) ** 2`.
        optimistic: whether the last gradient is counted twice in the parameters, as a guess of the next one; default
            False.
        projection: gives the nearest parameters that are allowed, for example from `optax.projections`; all are by
            default.

    Returns:
        An optimizer that takes the extra argument `issued_at`: the number of gradients that had arrived (`count`) when
        the parameters were read at which this one was taken, an integer; by default it is the present one, no delay.
        Its state is two numbers a parameter, and `max_delay` numbers. It sends nothing.

    Raises:
        ValueError: if an argument is out of its range.
        TypeError: if `max_delay` or `projection` is an array.

    Example:
        >>> tx = delayed_dual_averaging(1.0, max_delay=2)
        >>> params = jnp.array([0.0])
        >>> state = tx.init(params)
        >>> for issued_at in (0, 0):  # two workers read the start
        ...     updates, state = tx.update(jnp.array([1.0]), state, params, issued_at=issued_at)
        ...     params = optax.apply_updates(params, updates)
        >>> state.lag, params  # 1 + (1 + 2), and -2 / sqrt(4)
        (Array(4., dtype=float32), Array([-1.], dtype=float32))

    Reference:
        Hsieh, Iutzeler, Malick, Mertikopoulos, "Multi-Agent Online Optimization with Delays: Asynchronicity,
        Adaptivity, and Optimism", 2020, arXiv:2012.11579.
    """
    check_range("radius", radius, 0.0, low_open=True)
    check_range("slack", slack, 0.0, low_open=True)
    refuse_arrays(max_delay=max_delay, projection=projection)
    kept = 0 if max_delay is None else max_delay
    check_integer("max_delay", kept, least=0)

    def init_fn(params):
        dtype = scalar_dtype(params)
        return DelayedDualAveragingState(
            count=jnp.zeros([], jnp.int32),
            start=copy(params),
            total=optax.tree.zeros_like(params),
            lag=jnp.zeros([], dtype),
            norms=jnp.zeros(kept, dtype) if kept else None,
            sum_of_norms=jnp.zeros([], dtype),
        )

    def update_fn(updates, state, params=None, *, issued_at=None, **extra_args):
        del extra_args
        require_params(params, "delayed_dual_averaging")
        norm = jnp.asarray(optax.tree.norm(updates), state.lag.dtype)
        unknown = jnp.zeros_like(norm) if issued_at is None else _sum_since(state, state.count - issued_at)
        lag = state.lag + norm**2 + 2 * norm * unknown  # the lag of the gradients received
        # The adaptive learning rate. After an infinite gradient it would be zero, and parameters at the start for ever.
        rate = jnp.where(jnp.isinf(lag), jnp.nan, radius / jnp.sqrt(slack + lag))
        total = optax.tree.add(state.total, updates)
        ahead = optax.tree.add(total, updates) if optimistic else total
        new = jax.tree.map(lambda x, s: x - rate.astype(x.dtype) * s, state.start, ahead)
        norms = None if state.norms is None else jnp.concatenate([norm[None], state.norms[:-1]])
        new_state = DelayedDualAveragingState(
            optax.safe_increment(state.count), state.start, total, lag, norms, state.sum_of_norms + norm
        )
        return overwrite(new if projection is None else projection(new), params), new_state

    return in_float32(optax.GradientTransformationExtraArgs(init_fn, update_fn))


def _sum_since(state: DelayedDualAveragingState, delay: jax.Array) -> jax.Array:
    """Sums the norms of the last gradients; of all, where the delay is larger than what is kept."""
    if state.norms is None:
        return jnp.where(delay > 0, state.sum_of_norms, 0)
    recent = jnp.sum(jnp.where(jnp.arange(state.norms.size) < delay, state.norms, 0))
    return jnp.where(delay > state.norms.size, state.sum_of_norms, recent)


METHODS = (
    Method(
        name="delayed_dual_averaging",
        factory=delayed_dual_averaging,
        kind="optimizer",
        summary="Dual averaging for gradients that come late, whose steps shrink with how late they are.",
        paper=Paper(
            "Multi-Agent Online Optimization with Delays: Asynchronicity, Adaptivity, and Optimism",
            "Hsieh et al.",
            2020,
            "2012.11579",
        ),
        also_known_as=("delayed adaptive dual averaging",),
        example={"radius": 1.0, "max_delay": 2},
        grid=1.0,
        tuned="radius",
    ),
)
