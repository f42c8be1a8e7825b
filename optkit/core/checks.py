"""Errors on which a user can act."""

import math
import numbers
from typing import Any, get_args

import jax
import numpy as np


def check_range(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    low_open: bool = False,
    high_open: bool = False,
) -> None:
    """Raises unless a hyperparameter lies in its range.

    Args:
        name: Name of the argument, for the message.
        value: The argument. Only Python and NumPy numbers are checked. Traced values, JAX arrays (which
            `optax.inject_hyperparams` makes), and schedules are accepted.
        low: The smallest value allowed. Default: no limit.
        high: The largest value allowed. Default: no limit.
        low_open: Whether `low` itself is excluded. Default: False.
        high_open: Whether `high` itself is excluded. Default: False.

    Raises:
        ValueError: If `value` is a number outside the range, or not a number (NaN).
    """
    if not isinstance(value, (numbers.Real, np.ndarray, np.generic)):
        return
    number = np.asarray(value)
    above = number > low if low_open else number >= low
    below = number < high if high_open else number <= high
    if not np.all(above & below):
        left, right = "(" if low_open else "[", ")" if high_open else "]"
        raise ValueError(f"{name} must be in {left}{low:g}, {high:g}{right}, got {value!r}")


def check_count(name: str, value: Any) -> None:
    """Raises unless an argument is a positive integer.

    Args:
        name: Name of the argument, for the message.
        value: The argument. Only Python and NumPy numbers are checked.

    Raises:
        ValueError: If it is not an integer, or less than 1.

    Example:
        >>> check_count("anchor_every", 5)
    """
    if not isinstance(value, (numbers.Real, np.ndarray, np.generic)):
        return
    number = np.asarray(value)
    if not np.all((number >= 1) & (number % 1 == 0)):
        raise ValueError(f"{name} must be a positive integer, got {value!r}")


def check_period(name: str, value: Any) -> None:
    """Raises unless a number of steps, with which a counter is compared, is a positive integer or an array.

    Args:
        name: Name of the argument, for the message.
        value: The argument.

    Raises:
        ValueError: If it is neither a JAX array, which may be traced, nor a positive integer.

    Example:
        >>> check_period("every", 8)
    """
    if not isinstance(value, jax.Array):
        check_integer(name, value)


def check_integer(name: str, value: Any, least: int = 1) -> None:
    """Raises unless an argument that determines a shape or the length of a loop is an integer.

    Args:
        name: Name of the argument, for the message.
        value: The argument.
        least: The smallest value allowed. Default: 1.

    Raises:
        ValueError: If it is not an integer of Python or NumPy (2.0 is not one), or too small.

    Example:
        >>> check_integer("size", 8)
    """
    if not isinstance(value, numbers.Integral) or value < least:
        allowed = "a positive integer" if least == 1 else f"an integer of at least {least}"
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


def check_option(name: str, value: Any, options: Any, *, or_none: bool = False) -> None:
    """Raises unless an argument is one of the allowed words.

    Args:
        name: Name of the argument, for the message.
        value: The argument.
        options: A `Literal` of all words.
        or_none: Whether None is allowed too. Default: False.

    Raises:
        ValueError: If it is not allowed.

    Example:
        >>> from typing import Literal
        >>> check_option("side", "left", Literal["left", "right"])
    """
    allowed = (*get_args(options), None) if or_none else get_args(options)
    if value not in allowed:
        *others, last = map(repr, allowed)
        raise ValueError(f"{name} must be {', '.join(others)} or {last}, got {value!r}")
