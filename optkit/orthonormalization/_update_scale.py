"""The factors on an orthogonalized update, which depend on the shape of its matrix."""

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
"""Functions of rows and columns, that is of fan-out and fan-in."""
