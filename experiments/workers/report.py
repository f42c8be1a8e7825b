"""What a run on many workers found, as tables for a terminal and for a page."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rich.filesize import decimal
from rich.table import Table

from experiments.benchmarks.measured_rows import markdown_table
from experiments.workers import times
from experiments.workers.times import Clock
from optkit.comparison.records import Record
from optkit.comparison.terminal import visible


class Sheet(NamedTuple):
    """A table.

    Attributes:
        title: what it shows.
        explanation: how to read it.
        columns: their names; numbers stand in all but the first ones.
        rows: the cells of each row.
        words: how many columns hold words.
    """

    title: str
    explanation: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1

    def shown(self) -> Table:
        """Lays it out for a terminal."""
        layout = Table(title=visible(self.title), caption=self.explanation)
        for i, name in enumerate(self.columns):
            layout.add_column(visible(name), no_wrap=i < self.words, justify="left" if i < self.words else "right")
        for row in self.rows:
            layout.add_row(*map(visible, row))
        return layout

    def markdown(self) -> str:
        """Lays it out for a page."""
        rows = [[visible(cell).replace("|", r"\|") for cell in row] for row in self.rows]
        columns = [visible(name).replace("|", r"\|") for name in self.columns]
        return "\n".join([f"## {visible(self.title)}", "", self.explanation, "", *markdown_table(columns, rows)])


def trainings(records: Sequence[Record]) -> list[Record]:
    """Returns the records of trainings."""
    return [record for record in records if record["record"] == "training"]


def results(records: Sequence[Record]) -> Sheet:
    """Lays out what was sent and what came of it.

    Args:
        records: the run's results.

    Returns:
        The table.
    """
    settings, rows = records[0]["settings"], trainings(records)
    metrics = sorted(rows[0]["test"], key="loss".__ne__) if rows else []
    columns = ["optimizer", "sent/step", "sent", "exchanges", "loss", "worst"]
    columns += [*(f"test {metric}" for metric in metrics), "consensus", "ms/step"]
    return Sheet(
        title(settings),
        "Sent: bytes that each worker sends in the compiled program, lost messages included. Exchanges: steps in"
        " which it sends. The validation loss and the test metrics are those of the mean of what honest workers report;"
        " worst: the largest loss of one worker's own parameters. Consensus: root mean square distance of honest"
        " workers from their mean.",
        columns,
        [_row(settings, row, metrics) for row in rows],
    )


def _row(settings, row, metrics):
    found = [row["validation"]["loss"][-1], row["worst"][-1]]
    found += [row["test"][metric] for metric in metrics] + [row["consensus"][-1]]
    sent = 1e6 * times.megabytes(row)[-1]
    return [
        row["optimizer"],
        decimal(round(sent / settings["steps"])),
        decimal(round(sent)),
        f"{row['exchanges'][-1]:.0f}",
        *("diverged" if value is None else f"{value:.4g}" for value in found),
        f"{np.median(row['milliseconds_per_step']):.2f}",
    ]


def durations(records: Sequence[Record], clock: Clock, sizes: Sequence[int] = ()) -> Sheet | None:
    """Lays out how long methods take to the same loss on different networks.

    Args:
        records: the run's results.
        clock: the networks.
        sizes: other numbers of workers for which to tell it, too.

    Returns:
        The table; None if no training improves the loss.
    """
    settings, rows = records[0]["settings"], trainings(records)
    loss = times.common_loss(rows)
    if loss is None:
        return None
    own = settings["workers"]
    sizes = [own, *(size for size in sizes if size != own and own > 1)]
    cells = []
    for size in sizes:
        for row in rows:
            number = times.first_report(row, loss)
            found = [
                "never" if number is None else f"{clock.seconds(settings, row, network, size)[number]:.3g}"
                for network in clock.networks
            ]
            steps = "never" if number is None else str(row["steps"][number])
            cells.append([f"{size}", row["optimizer"], steps, *found])
    return Sheet(
        f"Seconds to a validation loss of {loss:.4g}, which all reach that improve it",
        clock.explanation(settings, rows),
        ["workers", "optimizer", "steps", *(name(network.bandwidth) for network in clock.networks)],
        cells,
        words=2,
    )


def name(bandwidth: float) -> str:
    """Returns a bandwidth in words."""
    return f"{bandwidth / 1e6:g} Mb/s" if bandwidth < 1e9 else f"{bandwidth / 1e9:g} Gb/s"


def page(records: Sequence[Record], sheets: Sequence[Sheet]) -> str:
    """Returns the report as a page of Markdown.

    Args:
        records: the run's results.
        sheets: its tables.
    """
    versions, hardware = records[0]["versions"], records[0]["hardware"]
    made = f"{hardware['devices']}, {hardware['platform']}; jax {versions.get('jax')}, optax {versions.get('optax')}"
    head = ["# Training on many workers", "", "Written by `python -m experiments workers`.", visible(made)]
    return "\n\n".join(["\n".join(head), *(sheet.markdown() for sheet in sheets), "![figure](figure.png)"]) + "\n"


def title(settings: Record) -> str:
    """Says what was trained, on whom, and what happened to them."""
    dealt = "evenly" if settings["alpha"] is None else f"by Dirichlet({settings['alpha']:g})"
    every, processes = settings["every"], settings["processes"]
    faults = [
        f"{settings['dropout']:.0%} of links lost" if settings["dropout"] else "",
        f"{settings['silent']} silent for a third" if settings["silent"] else "",
        f"{settings['byzantine']} attack by {settings['attack']}" if settings["attack"] else "",
        f"mixing by {settings['mixing']}" if settings["mixing"] else "",
        f"messages by {settings['compressor']}" if settings["compressor"] else "",
        f"an exchange every {every} steps" if every is not None and every > 1 else "",
        f"{processes} processes" if processes > 1 else "",
    ]
    shared = f"{settings['workers']} workers, topology {settings['topology']}, examples dealt {dealt}"
    return ", ".join([f"{settings['task']}: {shared}", *filter(None, faults)])
