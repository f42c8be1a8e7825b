"""What an orthogonalized update is multiplied by, as its matrix's shape says."""

import math
from collections.abc import Callable, Mapping
from typing import Literal

Scale = Literal["jordan", "spectral", "rms"]

SCALES: Mapping[str | None, Callable[[int, int], float]] = {
    "jordan": lambda rows, columns: math.sqrt(max(1, rows / columns)),
    "spectral": lambda rows, columns: math.sqrt(rows / columns),
    "rms": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
    None: lambda rows, columns: 1.0,  # noqa: ARG005
}
"""Of rows and columns, that is fan-out and fan-in."""


def check_scale(scale: str | None, *others: str) -> None:
    """Raises unless there is such a scale.

    Args:
        scale: what was given.
        *others: scales that a method has beside those of `SCALES`.

    Raises:
        ValueError: if it is none of them.

    Example:
        >>> check_scale("rms")
    """
    allowed = [*SCALES, *others]
    if scale not in allowed:
        named = ", ".join(repr(name) for name in allowed if name is not None)
        raise ValueError(f"scale must be {named} or None, got {scale!r}")
