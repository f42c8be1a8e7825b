"""Delayed dual averaging: a step from the start along the sum of all gradients, which may arrive late.

Hsieh, Iutzeler, Malick, Mertikopoulos, "Multi-Agent Online Optimization with Delays: Asynchronicity, Adaptivity, and
Optimism", 2020, arXiv:2012.11579. This is experimental: the authors' code is not public, and the rule was checked only
against its special cases. Time is counted in gradients that have arrived.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_integer, check_range
from optkit.core.extra_args import require_params
from optkit.core.injection import refuse_arrays
from optkit.core.overwriting import overwrite
from optkit.core.precision import in_float32, scalar_dtype
from optkit.core.trees import copy
from optkit.method import Method, Paper

__all__ = ["delayed_dual_averaging"]


class DelayedDualAveragingState(NamedTuple):
    """State of `delayed_dual_averaging`.

    Attributes:
        count: Number of gradients so far.
        start: The first parameters.
        total: Sum of all gradients.
        lag: Sum of the squared norms of all gradients, plus twice the products of the norms of any two gradients of
            which neither was known when the other was computed.
        norms: Norms of the last `max_delay` gradients, the newest first. None if `max_delay` is 0.
        sum_of_norms: Sum of the norms of all gradients.
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
    """Dual averaging for gradients that arrive late, with steps that shrink with the delays.

    The update rule, where x_0 are the first parameters, S starts at zero, `|g|` is the norm over all leaves, and missed
    is the sum of the norms of the gradients that arrived after the parameters of g had been read::

        lag = lag + |g|^2 + 2 * |g| * missed
        S = S + g
        x = x_0 - radius / sqrt(slack + lag) * S

    Each call brings one gradient, in any order, and all workers may read the parameters at any time. The learning rate
    never rises. In a chain it must be the last transformation, because it overwrites the parameters.

    Use it when workers are asynchronous and gradients arrive with unknown delays. Avoid it when gradients arrive in
    time and a good learning rate is known, because this method never forgets where it started. It is experimental: the
    authors' code is not public.

    Args:
        radius: Rough distance between the start and the solution, above 0. The learning rate is proportional to it.
        max_delay: Largest number of gradients that may arrive between reading the parameters and bringing their
            gradient, so that the lag is still exact; an integer, at least 0. For a gradient that is older, all
            gradients so far count as missed, which makes the learning rate smaller than necessary. Default: None, which
            is 0.
        slack: Added to the lag, above 0. In the theory it is `(G * (2 * tau + 1)) ** 2`, where G is the largest norm of
            a gradient and tau the largest delay. Default: 1e-8.
        optimistic: Whether the last gradient is counted twice in the parameters, as a guess of the next one. Default:
            False.
        projection: A function that maps parameters to the nearest ones that are allowed, for example from
            `optax.projections`. Default: None, all parameters are allowed.

    Returns:
        An optimizer whose `update` takes the extra argument `issued_at`, an integer: the number of gradients that had
        arrived (`count`) when the parameters were read at which this gradient was computed. By default this is the
        present count, that is, no delay. Its state is two numbers per parameter and `max_delay` numbers. It sends
        nothing.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: If `max_delay` or `projection` is an array.

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
        arXiv:2012.11579.
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
        # The adaptive learning rate. After an infinite gradient it would be zero, and the parameters back at the start.
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
    """Sums the norms of the last `delay` gradients, or of all gradients if fewer norms are stored."""
    if state.norms is None:
        return jnp.where(delay > 0, state.sum_of_norms, 0)
    recent = jnp.sum(jnp.where(jnp.arange(state.norms.size) < delay, state.norms, 0))
    return jnp.where(delay > state.norms.size, state.sum_of_norms, recent)


METHODS = (
    Method(
        name="delayed_dual_averaging",
        factory=delayed_dual_averaging,
        kind="optimizer",
        summary="Dual averaging for gradients that arrive late, with steps that shrink with the delays.",
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
