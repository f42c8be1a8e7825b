"""Errors that a person can act on."""

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
        name: the argument's name, for the message.
        value: what was given. Only Python and NumPy numbers are checked: traced values and JAX arrays, as
            `optax.inject_hyperparams` makes them, and schedules pass.
        low: the smallest value allowed.
        high: the largest value allowed.
        low_open: excludes `low` itself.
        high_open: excludes `high` itself.

    Raises:
        ValueError: if `value` is a number outside the range, or not a number.
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
        name: the argument's name, for the message.
        value: what was given. Only Python and NumPy numbers are checked.

    Raises:
        ValueError: if it is no integer or less than 1.

    Example:
        >>> check_count("anchor_every", 5)
    """
    if not isinstance(value, (numbers.Real, np.ndarray, np.generic)):
        return
    number = np.asarray(value)
    if not np.all((number >= 1) & (number % 1 == 0)):
        raise ValueError(f"{name} must be a positive integer, got {value!r}")


def check_period(name: str, value: Any) -> None:
    """Raises unless a number of steps, with which a counter is compared, is a positive integer; arrays pass.

    Args:
        name: the argument's name, for the message.
        value: what was given.

    Raises:
        ValueError: if it is neither an array of JAX, which may be traced, nor a positive integer.

    Example:
        >>> check_period("every", 8)
    """
    if not isinstance(value, jax.Array):
        check_integer(name, value)


def check_integer(name: str, value: Any, least: int = 1) -> None:
    """Raises unless an argument on which a shape or the length of a loop depends is an integer.

    Args:
        name: the argument's name, for the message.
        value: what was given.
        least: the smallest value allowed; default 1.

    Raises:
        ValueError: if it is no integer of Python or NumPy (a float such as 2.0 is none), or too small.

    Example:
        >>> check_integer("size", 8)
    """
    if not isinstance(value, numbers.Integral) or value < least:
        allowed = "a positive integer" if least == 1 else f"an integer of at least {least}"
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


def check_option(name: str, value: Any, options: Any, *, or_none: bool = False) -> None:
    """Raises unless an argument is one of the words that it may be.

    Args:
        name: the argument's name, for the message.
        value: what was given.
        options: a `Literal` of all words.
        or_none: whether it may be None too.

    Raises:
        ValueError: if it is none of them.

    Example:
        >>> from typing import Literal
        >>> check_option("side", "left", Literal["left", "right"])
    """
    allowed = (*get_args(options), None) if or_none else get_args(options)
    if value not in allowed:
        *others, last = map(repr, allowed)
        raise ValueError(f"{name} must be {', '.join(others)} or {last}, got {value!r}")
