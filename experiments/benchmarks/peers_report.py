"""What `bench peers` found: a row a pair, their table, and why some of ours are behind."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from experiments.benchmarks import measured_rows
from experiments.benchmarks.measured_rows import Quartiles, machines, markdown_table
from optkit.comparison.store import write_results

# What the reasons mean. XLA's programs show the loops and the copy, and a step that is written by hand, without a
# library, takes as long; a product of 1024 x 1024 matrices by each, on a processor with AVX512_BF16, shows the rest.
MEANINGS = {
    "loops": "XLA for CPUs writes each new array in a loop of its own and reads again what they share; theirs has one"
    " loop",
    "copy": "XLA for CPUs computes momentum and parameters in two loops, and copies the momentum before; theirs does"
    " not",
    "products": "theirs multiplies in bfloat16, at twice the speed on processors that can, and XLA for CPUs does not"
    " use that; ours keeps float32",
}
# Why ours takes longer, where it does.
REASONS: Mapping[tuple[str, str], str] = {
    ("optax.adamw", "torch.optim.AdamW, fused"): "loops",
    ("optax.adamw", "heavyball.AdamW"): "loops",
    ("lion_kappa", "pytorch_optimizer.Lion, compiled"): "copy",
    ("signum", "pytorch_optimizer.SignSGD"): "copy",
    ("grams_adamw", "pytorch_optimizer.Grams, compiled"): "loops",
    ("mars_adamw", "pytorch_optimizer.MARS, compiled"): "loops",
    ("mars_adamw", "heavyball.AdamW, mars"): "loops",
    ("mars_shampoo", "pytorch_optimizer.MARS, shampoo"): "products",
    ("muon", "torch.optim.Muon"): "products",
    ("muon", "pytorch_optimizer.Muon"): "products",
    ("muon", "heavyball.Muon"): "products",
    ("normuon", "pytorch_optimizer.NorMuon"): "products",
    ("sgd_sai", "pytorch_optimizer.SGDSaI, compiled"): "loops",
}

EXPLANATION = """\
A step of ours is `update` and `optax.apply_updates`, jitted, parameters and state donated; one of theirs is `step`,
with the gradients in place. Both have the same tree of float32 arrays, hyperparameters that mean the same, and as many
threads as there are processors. They take turns within one process, in another order each round, with a pause after
those of PyTorch, whose threads stay awake for a while. Times and ratios are medians over the rounds, with quartiles; a
ratio below 1 says that ours is faster. Compiled stands for `torch.compile`, which HeavyBall always uses. Seconds are
those of compiling and, on their side, of the first steps. The time of GaLore is that between two choices of subspaces,
which are 200 steps apart. PyTorch's threads wait for each other after every operation: what else the machine does
slows theirs more than ours, so that the figures are worth something only on a machine that does nothing else."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """What a step costs on both sides; quartiles are over rounds.

    Attributes:
        parameters: how many there are.
        optimizer: our method.
        peer: its implementation in PyTorch.
        differs: what of the rule is not the same.
        threads: how many PyTorch has.
        rounds: how many turns each side took.
        milliseconds: time of our step.
        peer_milliseconds: time of theirs.
        ratio: the first over the second.
        compile_seconds: time to trace and compile our step.
        peer_compile_seconds: time of their first steps.
        versions: from `environment.versions`, and those of PyTorch's packages.
        hardware: from `environment.hardware`.
    """

    parameters: int
    optimizer: str
    peer: str
    differs: str
    threads: int
    rounds: int
    milliseconds: Quartiles
    peer_milliseconds: Quartiles
    ratio: Quartiles
    compile_seconds: float
    peer_compile_seconds: float
    versions: Mapping[str, str]
    hardware: Mapping[str, Any]

    @property
    def result(self) -> str:
        """Whether ours is ahead or, where it is not, why."""
        if self.ratio[1] <= 1:
            return "ahead"
        return f"behind: {REASONS.get((self.optimizer, self.peer), 'not explained')}"

    def line(self) -> str:
        """Returns the gist."""
        return f"{self.optimizer} beside {self.peer}: {COLUMNS['ratio'](self)}, {self.result}"


COLUMNS: Mapping[str, Callable[[Row], str]] = {
    "ours": lambda row: row.optimizer,
    "theirs": lambda row: row.peer,
    "ratio": lambda row: "{1:.2f} ({0:.2f} to {2:.2f})".format(*row.ratio),
    "ms": lambda row: f"{row.milliseconds[1]:.3g} / {row.peer_milliseconds[1]:.3g}",
    "compile s": lambda row: f"{row.compile_seconds:.1f} / {row.peer_compile_seconds:.1f}",
    "result": lambda row: row.result,
}
# On the page only, where there is room.
MORE_COLUMNS: Mapping[str, Callable[[Row], str]] = {
    "rounds": lambda row: str(row.rounds),
    "what differs": lambda row: row.differs,
}
SECOND = "Where there are two numbers the second is theirs."


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
    """Writes rows as JSON, and beside it as Markdown, into a folder that the caller holds.

    Args:
        rows: the rows.
        file: the JSON file.

    Raises:
        ComparisonError: if it cannot be written.
    """
    write_results(file, {"rows": [dataclasses.asdict(row) for row in rows]}, markdown(rows))


def merge(rows: Sequence[Row], new: Row) -> list[Row]:
    """Puts a row in the place of the one of the same pair, or after all others."""
    return measured_rows.merge(rows, new, _place)


def _place(row):
    return f"{row.optimizer} beside {row.peer}"


def table(rows: Sequence[Row]) -> Table:
    """Lays rows out for a terminal.

    Args:
        rows: the rows.

    Returns:
        A table.
    """
    shown = Table(title=_title(rows), caption=SECOND, box=SIMPLE_HEAD)
    for number, name in enumerate(COLUMNS):
        shown.add_column(name, justify="right" if name in {"ratio", "ms", "compile s"} else "left", no_wrap=number == 0)
    for row in rows:
        shown.add_row(*(cell(row) for cell in COLUMNS.values()))
    return shown


def _title(rows):
    threads = " or ".join(str(threads) for threads in dict.fromkeys(row.threads for row in rows))
    return f"{rows[0].parameters:,} parameters, {threads} threads"


def markdown(rows: Sequence[Row]) -> str:
    """Lays rows out as a page.

    Args:
        rows: the rows.

    Returns:
        Markdown.
    """
    columns = {**COLUMNS, **MORE_COLUMNS}
    return "\n".join([
        "# Cost of an update beside PyTorch",
        "",
        "Written by `python -m experiments bench peers`.",
        *machines(rows, "jax", "optax", "torch", "pytorch_optimizer", "heavyball"),
        "",
        EXPLANATION,
        "",
        f"## {_title(rows)}",
        "",
        SECOND,
        "",
        *markdown_table(columns, ([cell(row) for cell in columns.values()] for row in rows)),
        "",
        "Why ours is behind:",
        "",
        *(f"- {reason}: {meaning}" for reason, meaning in MEANINGS.items()),
        "",
    ])  # fmt: skip
