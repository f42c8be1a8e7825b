"""Rows of results that are measured one by one: how they are read again, put together and laid out."""

import pathlib
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from optkit.comparison import records

Quartiles = tuple[float, float, float]
Row = TypeVar("Row")

_SCHEMAS: Mapping[Any, Any] = {
    str: records.TEXT,
    int: records.integer(1),
    float: records.NUMBER,
    float | None: records.RESULT,
    Quartiles: records.list_of(records.NUMBER, minItems=3, maxItems=3),
    Mapping[str, str]: records.VERSIONS,
    Mapping[str, Any]: records.HARDWARE,
}


def quartiles(values: np.ndarray) -> Quartiles:
    """Returns the lower quartile, the median and the upper quartile."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return low, middle, high


def with_quartiles(values: Quartiles, digits: int) -> str:
    """Writes a median with its quartiles."""
    low, middle, high = (f"{value:.{digits}f}" for value in values)
    return f"{middle} ({low} to {high})"


def read(file: pathlib.Path, kind: type[Row], place: Callable[[Row], str]) -> list[Row]:
    """Reads rows that were written under the key `rows`; nothing if there is no file.

    Args:
        file: the JSON file.
        kind: the dataclass of a row.
        place: says what a row is about, of which there is one row only.

    Returns:
        The rows.

    Raises:
        ComparisonError: if it is something else.
    """
    fields = records.object_of(
        **{name: _SCHEMAS[annotation] for name, annotation in typing.get_type_hints(kind).items()}
    )
    items = {**fields, "additionalProperties": False}
    content = records.read_json(file, records.object_of(rows={"type": "array", "items": items}))
    rows = [kind(**record) for record in content["rows"]] if content else []
    places = [place(row) for row in rows]
    for number, taken in enumerate(places):
        if taken in places[:number]:
            records.refuse(file, ["rows", number], f"rows.{number}: {taken} has a row before this one")
    return rows


def merge(rows: Sequence[Row], new: Row, place: Callable[[Row], str]) -> list[Row]:
    """Puts a row in the place of the one that is about the same, or after all others.

    Args:
        rows: the rows.
        new: the new one.
        place: says what a row is about.

    Returns:
        All rows.
    """
    places = [place(row) for row in rows]
    if place(new) in places:
        return [new if taken == place(new) else row for taken, row in zip(places, rows, strict=True)]
    return [*rows, new]


def machines(rows: Iterable[Any], *packages: str) -> list[str]:
    """Returns a line for each machine, with packages, on which rows were measured.

    Args:
        rows: rows with `versions` and `hardware`.
        *packages: whose versions are named.

    Returns:
        The lines.
    """
    lines = (
        f"{row.hardware['devices']}, {row.hardware['processors']} processors, {row.hardware['platform']}; "
        + ", ".join(f"{package} {row.versions[package]}" for package in packages)
        for row in rows
    )
    return list(dict.fromkeys(lines))


def markdown_table(columns: Iterable[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Returns the lines of a table in Markdown.

    Args:
        columns: their names.
        rows: the cells of each row.

    Returns:
        The lines.
    """
    columns = list(columns)
    return [f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows)]
