"""Hyperparameters that may be schedules."""

from collections.abc import Callable
from typing import Any

import jax


def value_at(schedule: jax.typing.ArrayLike | Callable[[Any], Any], count: Any) -> Any:
    """Returns the value of a hyperparameter at a step.

    Args:
        schedule: A number, or a function of the number of steps.
        count: The number of steps so far.

    Returns:
        The number, or the value of the function at the count.

    Example:
        >>> value_at(0.5, 3), value_at(lambda count: 2 * count, 3)
        (0.5, 6)
    """
    return schedule(count) if callable(schedule) else schedule
