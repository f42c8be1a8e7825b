"""When workers synchronize: every few updates, by a number or a function."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optkit.core.checks import check_period
from optkit.core.schedules import value_at

Every = int | jax.Array | Callable[[jax.Array], jax.Array]


class Clock(NamedTuple):
    """What is due in an update.

    Attributes:
        since: Number of updates since the last synchronization, this one included.
        period: Number of updates from the last synchronization to the next.
        is_due: Whether a fragment is synchronized.
        due: Which one.
        is_merged: Whether a synchronized fragment arrives in the parameters.
        merged: Which one.
    """

    since: jax.Array
    period: jax.Array
    is_due: jax.Array
    due: jax.Array
    is_merged: jax.Array
    merged: jax.Array


def tick(
    count: jax.typing.ArrayLike,
    since: jax.typing.ArrayLike,
    period: jax.typing.ArrayLike,
    every: Every,
    fragments: int,
    delay: int,
) -> Clock:
    """Finds what is due.

    The period is asked for when a round begins, so that a schedule of `optax.inject_hyperparams`, which sees the same
    count, means the same as a function.

    Args:
        count: Number of updates before this one.
        since: Number of updates since the last synchronization, before this one.
        period: Number of updates from the last synchronization to the next, as it was.
        every: Number of updates in which each fragment is synchronized once, or a function of the count.
        fragments: Number of fragments.
        delay: Number of updates from a synchronization to its arrival in the parameters.

    Returns:
        What is due.

    Example:
        >>> clock = tick(3, 1, 2, every=4, fragments=2, delay=0)
        >>> bool(clock.is_due), int(clock.due)
        (True, 0)
    """
    asked = jnp.maximum(jnp.asarray(value_at(every, count)).astype(jnp.int32) // fragments, 1)
    period = jnp.where(since == 0, asked, period)
    now = jnp.asarray(count, jnp.int32) + 1
    passed = jnp.asarray(since, jnp.int32) + 1
    is_due = passed >= period
    since = jnp.where(is_due, 0, passed)
    # With one fragment the period may change from round to round; several of them share one number.
    sent = now - delay
    is_merged = (since == delay) if fragments == 1 else sent % period == 0
    return Clock(since, period, is_due, now // period % fragments, is_merged & (sent > 0), sent // period % fragments)


def check_every(every: Any) -> None:
    """Raises unless an argument is a number of updates, or a function that returns it.

    Raises:
        ValueError: If it is neither a function, nor a JAX array, nor a positive integer.
    """
    if not callable(every):
        check_period("every", every)
