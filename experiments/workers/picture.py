"""What a run on many workers found: the table and the figure."""

import pathlib
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure
from rich.filesize import decimal
from rich.table import Table

from optkit.comparison.figure import STYLE, add_legend, add_title, look, save
from optkit.comparison.records import Record
from optkit.comparison.terminal import visible


def trainings(records: Sequence[Record]) -> list[Record]:
    """Returns the records of trainings."""
    return [record for record in records if record["record"] == "training"]


def table(records: Sequence[Record]) -> Table:
    """Lays out what was sent and what came of it, for a terminal.

    Args:
        records: the run's results.

    Returns:
        The table.
    """
    settings, rows = records[0]["settings"], trainings(records)
    layout = Table(
        title=visible(_title(settings)),
        caption=(
            "Sent: bytes that each worker sends in the compiled program, lost messages included. The validation loss"
            " and the test metrics are those of the mean of the honest workers' parameters; worst: the largest loss of"
            " one worker's own parameters. Consensus: root mean square distance of honest workers from their mean."
        ),
    )
    layout.add_column("optimizer", no_wrap=True)
    metrics = sorted(rows[0]["test"], key="loss".__ne__) if rows else []
    columns = [
        "sent/step",
        "sent",
        "loss",
        "worst",
        *(f"test {visible(metric)}" for metric in metrics),
        "consensus",
        "ms/step",
    ]
    for name in columns:
        layout.add_column(name, justify="right")
    for row in rows:
        results = [row["validation"]["loss"][-1], row["worst"][-1]]
        results += [row["test"][metric] for metric in metrics] + [row["consensus"][-1]]
        layout.add_row(
            visible(row["optimizer"]),
            decimal(round(sum(row["sent"].values()))),
            decimal(round(sum(row["sent"].values()) * settings["steps"])),
            *("diverged" if value is None else f"{value:.4g}" for value in results),
            f"{np.median(row['milliseconds_per_step']):.2f}",
        )
    return layout


def draw(records: Sequence[Record], file: pathlib.Path) -> None:
    """Draws loss and consensus distance, against rounds and against bytes.

    Args:
        records: the run's results.
        file: where to write it.
    """
    with mpl.rc_context(STYLE):
        picture = Figure(figsize=(11, 7.5), layout="constrained")
        axes = picture.subplots(2, 2, sharex="col", sharey="row")
        for i, row in enumerate(trainings(records)):
            steps, style = np.asarray(row["steps"]), look(i)
            megabytes = steps * sum(row["sent"].values()) / 1e6
            # All start from the same parameters, at no distance, of which there is no logarithm.
            for line, (first, curve) in enumerate(((0, row["validation"]["loss"]), (1, row["consensus"]))):
                values = np.array(curve, float)
                for column, x in enumerate((steps, megabytes)):
                    axes[line, column].plot(x[first:], values[first:], markersize=4, markevery=(2 * i, 10), **style)
        axes[0, 0].set(ylabel="validation loss of the mean parameters", yscale="log", title="Against rounds")
        axes[1, 0].set(ylabel="distance from consensus", yscale="log", xlabel="rounds")
        axes[0, 1].set(title="Against what each worker has sent")
        axes[1, 1].set(xlabel="megabytes sent by each worker")
        for axis in axes[:, 0]:
            axis.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        add_legend(picture, axes[0, 0].lines, [row["optimizer"] for row in trainings(records)])
        add_title(picture, _title(records[0]["settings"]))
        save(picture, file)


def _title(settings):
    dealt = "evenly" if settings["alpha"] is None else f"by Dirichlet({settings['alpha']:g})"
    faults = [
        f"{settings['dropout']:.0%} of links lost" if settings["dropout"] else "",
        f"{settings['silent']} silent for a third" if settings["silent"] else "",
        f"{settings['byzantine']} attack by {settings['attack']}" if settings["attack"] else "",
        f"mixing by {settings['mixing']}" if settings["mixing"] else "",
        f"an exchange every {settings['every']} steps" if settings["every"] > 1 else "",
    ]
    shared = f"{settings['workers']} workers, topology {settings['topology']}, examples dealt {dealt}"
    return ", ".join([f"{settings['task']}: {shared}", *filter(None, faults)])
