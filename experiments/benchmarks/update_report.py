"""What `bench update` found: a row a method and size, their table, and which targets they meet."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table

from experiments.benchmarks import measured_rows
from experiments.benchmarks.measured_rows import Quartiles, machines, markdown_table
from experiments.benchmarks.nearest import CAUTIOUS_ADAMW, LION_KAPPA_L1, MARS_UNCLIPPED, WHY
from optkit.comparison.store import write_results

# How long a step may take, in steps of Optax's nearest.
LONGEST: Mapping[str, float] = {LION_KAPPA_L1: 1.05, MARS_UNCLIPPED: 1.35, "mars_adamw": 1.7, CAUTIOUS_ADAMW: 1.5}
LEAST_SHARE_OF_COPY = 0.7
# From how many steps on a first step is told.
LONG_FIRST_STEP = 2.0

EXPLANATION = """\
A step is `update` and `optax.apply_updates`, jitted, parameters and state donated. Method, reference, copy, and pass in
place take turns within one process; times and ratios are medians over the rounds, with quartiles. Moved are the bytes
that a step cannot do without: parameters and state read and written once, what it is fed with read once, and what a
norm or a count is taken of read once more; methods that leave part of their state alone in most steps move less. The
copy reads the parameters and writes them to other memory, which a CPU reads before it writes there; the pass in place
changes their sign. Freed memory is kept for the next step, as a whole training step would. Gradients at other points
(`grad_fn` and the like) are constants: what they cost is not in it. Where rows are fed, the reference takes their mean
or sum. A first step is one from a new state, told where it takes much longer than others: methods with subspaces find
them there, and again every `update_gap` steps, 200 by default."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """What one method's step costs; quartiles are over rounds.

    Attributes:
        size: of the transformer.
        dtype: of parameters and gradients.
        parameters: how many there are.
        optimizer: the method.
        reference: Optax's nearest.
        fed_with: what the method takes in place of a gradient, or beside it.
        rounds: how many turns each program took.
        milliseconds: time of a step.
        reference_milliseconds: time of the reference's step.
        ratio: the first over the second.
        first_step: the time of a step from a new state, over that of a step; None where that was not measured.
        state_bytes_per_parameter: size of the state.
        reference_state_bytes_per_parameter: size of the reference's.
        temporary_bytes_per_parameter: memory that the step needs beside; None where the compiler does not tell.
        reference_temporary_bytes_per_parameter: the reference's.
        compile_seconds: time to trace and compile the step.
        reference_compile_seconds: the reference's.
        moved_bytes_per_parameter: what the step cannot but read and write.
        gigabytes_per_second: these bytes over its time.
        copy_gigabytes_per_second: bytes that a copy of the parameters reads and writes, over its time.
        in_place_gigabytes_per_second: likewise of a pass over them in place.
        share_of_copy: the method's gigabytes per second over the copy's.
        share_of_in_place: likewise over those of the pass in place.
        versions: from `environment.versions`.
        hardware: from `environment.hardware`.
    """

    size: str
    dtype: str
    parameters: int
    optimizer: str
    reference: str
    fed_with: str
    rounds: int
    milliseconds: Quartiles
    reference_milliseconds: Quartiles
    ratio: Quartiles
    first_step: float | None
    state_bytes_per_parameter: float
    reference_state_bytes_per_parameter: float
    temporary_bytes_per_parameter: float | None
    reference_temporary_bytes_per_parameter: float | None
    compile_seconds: float
    reference_compile_seconds: float
    moved_bytes_per_parameter: float
    gigabytes_per_second: Quartiles
    copy_gigabytes_per_second: Quartiles
    in_place_gigabytes_per_second: Quartiles
    share_of_copy: Quartiles
    share_of_in_place: Quartiles
    versions: Mapping[str, str]
    hardware: Mapping[str, Any]

    def line(self) -> str:
        """Returns the gist."""
        low, ratio, high = self.ratio
        return (
            f"{self.size} {self.optimizer}: {self.milliseconds[1]:.3g} ms, {ratio:.2f} ({low:.2f} to {high:.2f}) times "
            f"optax.{self.reference}, {self.share_of_copy[1]:.0%} of a copy's bandwidth"
        )


class Verdict(NamedTuple):
    """Whether a target is met.

    Attributes:
        size: of the transformer.
        optimizer: the method.
        target: what is asked.
        measured: what was found.
        met: whether that is enough.
    """

    size: str
    optimizer: str
    target: str
    measured: str
    met: bool


def read(file: pathlib.Path) -> list[Row]:
    """Reads what `write` wrote; nothing if there is no file.

    Args:
        file: the JSON file.

    Returns:
        The rows.

    Raises:
        ComparisonError: if it is something else.
    """
    return measured_rows.read(file, Row, _place)


def write(rows: Sequence[Row], file: pathlib.Path) -> None:
    """Writes rows and verdicts as JSON, and beside it as Markdown, into a folder that the caller holds.

    Args:
        rows: the rows.
        file: the JSON file.

    Raises:
        ComparisonError: if it cannot be written.
    """
    content = {
        "rows": [dataclasses.asdict(row) for row in rows],
        "targets": [verdict._asdict() for verdict in verdicts(rows)],
    }
    write_results(file, content, markdown(rows))


def merge(rows: Sequence[Row], new: Row) -> list[Row]:
    """Puts a row in the place of the one of the same method and size, or behind all others of its size."""
    return measured_rows.merge(rows, new, _place)


def _place(row):
    return f"{row.optimizer} at {row.size}"


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Holds rows against the targets.

    Args:
        rows: any rows; those without targets are passed over.

    Returns:
        Two verdicts for each row that has targets.
    """
    found = []
    for row in rows:
        if row.optimizer in LONGEST:
            longest, ratio, share = LONGEST[row.optimizer], row.ratio[1], row.share_of_copy[1]
            time = f"at most {longest} times optax.{row.reference}"
            bandwidth = f"at least {LEAST_SHARE_OF_COPY:.0%} of a copy's bandwidth"
            found.append(Verdict(row.size, row.optimizer, time, f"{ratio:.2f}", ratio <= longest))
            found.append(Verdict(row.size, row.optimizer, bandwidth, f"{share:.0%}", share >= LEAST_SHARE_OF_COPY))
    return found


def _first_step(row):
    if row.first_step is None or row.first_step < LONG_FIRST_STEP:
        return ""
    return f"{row.first_step:.0f} steps"


COLUMNS: Mapping[str, Callable[[Row], str]] = {
    "method": lambda row: row.optimizer,
    "beside\noptax's": lambda row: row.reference,
    "ratio": lambda row: "{1:.2f} ({0:.2f} to {2:.2f})".format(*row.ratio),
    "ms": lambda row: f"{row.milliseconds[1]:.4g}",
    "state\nB/param": lambda row: _beside(row.state_bytes_per_parameter, row.reference_state_bytes_per_parameter),
    "GB/s": lambda row: f"{row.gigabytes_per_second[1]:.3g}",
    "of a\ncopy": lambda row: f"{row.share_of_copy[1]:.0%}",
    "in\nplace": lambda row: f"{row.share_of_in_place[1]:.0%}",
    "compile\ns": lambda row: _beside(row.compile_seconds, row.reference_compile_seconds),
}
# On the page only, where there is room.
MORE_COLUMNS: Mapping[str, Callable[[Row], str]] = {
    "moved B/param": lambda row: f"{row.moved_bytes_per_parameter:.1f}",
    "temporary B/param": lambda row: _beside(
        row.temporary_bytes_per_parameter, row.reference_temporary_bytes_per_parameter
    ),
    "first step": _first_step,
    "fed with": lambda row: row.fed_with,
    "why so long": lambda row: WHY.get(row.optimizer, ""),
}


def _beside(value, other):
    return " / ".join("" if number is None else f"{number:.1f}" for number in (value, other))


def _by_size(rows):
    sizes = {}
    for row in rows:
        sizes.setdefault(row.size, []).append(row)
    return sizes


def _title(rows):
    row = rows[0]
    copy, in_place = (
        sum(row[1] for row in found) / len(found)
        for found in zip(
            *((row.copy_gigabytes_per_second, row.in_place_gigabytes_per_second) for row in rows), strict=True
        )
    )
    return (
        f"{row.size}: {row.parameters:,} parameters in {row.dtype}; "
        f"a copy reads and writes {copy:.3g} GB/s, a pass in place {in_place:.3g} GB/s"
    )


def tables(rows: Sequence[Row]) -> list[Table]:
    """Lays rows out for a terminal.

    Args:
        rows: the rows.

    Returns:
        A table for each size, and one of targets if there are any.
    """
    shown = []
    for group in _by_size(rows).values():
        table = Table(
            title=_title(group), caption="Where there are two numbers the second is Optax's.", box=SIMPLE_HEAD
        )
        for number, name in enumerate(COLUMNS):
            table.add_column(name, justify="left" if number < 2 else "right", no_wrap=number == 0)
        for row in group:
            table.add_row(*(cell(row) for cell in COLUMNS.values()))
        shown.append(table)
    if found := verdicts(rows):
        table = Table("size", "method", "target", "measured", "", title="Targets", box=SIMPLE_HEAD)
        for verdict in found:
            table.add_row(*verdict[:-1], "met" if verdict.met else "missed")
        shown.append(table)
    return shown


def markdown(rows: Sequence[Row]) -> str:
    """Lays rows out as a page.

    Args:
        rows: the rows.

    Returns:
        Markdown.
    """
    lines = ["# Cost of an update", "", "Written by `python -m experiments bench update`."]
    lines += [*machines(rows, "jax", "optax"), "", EXPLANATION]
    for group in _by_size(rows).values():
        lines += ["", f"## {_title(group)}", "", "Where there are two numbers the second is Optax's.", ""]
        columns = {name.replace("\n", " "): cell for name, cell in {**COLUMNS, **MORE_COLUMNS}.items()}
        lines += markdown_table(columns, ([cell(row) for cell in columns.values()] for row in group))
    if found := verdicts(rows):
        lines += ["", "## Targets", ""]
        lines += markdown_table(
            ("size", "method", "target", "measured", "result"),
            ([*verdict[:-1], "met" if verdict.met else "**missed**"] for verdict in found),
        )
    return "\n".join(lines) + "\n"
