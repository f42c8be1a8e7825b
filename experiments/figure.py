"""The figure of a comparison."""

import io
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import ticker
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from experiments.records import Record
from experiments.report import Row
from experiments.store import write
from experiments.terminal import visible

# Okabe and Ito's colours, which people with any colour vision can tell apart, with Tol's wine for their yellow, which
# is too pale for a line; markers tell apart what still looks alike, and line styles carry on where colours end.
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#882255")
MARKERS = "osD^vPX*"
STYLES = ("-", "--", ":", "-.")
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "text.usetex": False,
}


def draw(header: Record, rows: Sequence[Row], file: pathlib.Path) -> None:
    """Draws learning curves beside the loss at each learning rate.

    Args:
        header: the run's first record.
        rows: from `report.summarize`.
        file: where to write it.
    """
    settings = header["settings"]
    with mpl.rc_context(STYLE):
        picture = Figure(figsize=(11, 4.6), layout="constrained")
        learning, sensitivity = picture.subplots(1, 2, sharey=True)
        shown = [row for row in rows if not row.diverged]
        looks = [look(settings["optimizers"].index(row.optimizer)) for row in shown]
        for i, (row, style) in enumerate(zip(shown, looks, strict=True)):
            low, mean, high = row.curves.min(axis=0), row.curves.mean(axis=0), row.curves.max(axis=0)
            learning.plot(row.steps, mean, markersize=4, markevery=(2 * i, 10), **style)
            learning.fill_between(row.steps, low, high, color=style["color"], alpha=0.12, linewidth=0)
        learning.set(xlabel="step", ylabel="validation loss", yscale="log", title="Over the training, at the best rate")
        limits = learning.get_ylim()
        for row, style in zip(shown, looks, strict=True):
            finite = np.isfinite(row.validation)
            sensitivity.plot(row.rates[finite], row.validation[finite], markersize=3, linewidth=1.2, **style)
            best = {"x": row.rates[row.best], "y": row.validation[row.best]}
            sensitivity.plot(best["x"], best["y"], markersize=8, markeredgecolor="white", **style)
        sensitivity.set(xlabel="learning rate", xscale="log", ylim=limits, title="At its end, by learning rate")
        learning.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        add_legend(picture, learning.lines, [row.optimizer for row in shown])
        seeds, tried = len(settings["seeds"]), settings["rates"] * settings["rounds"]
        title = f"{settings['task']}: every optimizer with {tried} learning rates x {seeds} seeds (bands: all seeds)"
        add_title(picture, title)
        save(picture, file)


def save(picture: Figure, file: pathlib.Path) -> None:
    """Writes a figure, whole or not at all.

    Args:
        picture: the figure.
        file: where to write it.
    """
    content = io.BytesIO()
    picture.savefig(content, dpi=150)
    write(file, content.getvalue())


def add_title(picture: Figure, title: str) -> None:
    """Writes a title over a figure, as it is: a name from a results file is no formula."""
    picture.suptitle(visible(title), x=0.01, ha="left", weight="bold", parse_math=False)


def add_legend(picture: Figure, lines: Iterable[Artist], names: Sequence[str]) -> None:
    """Writes the names of lines below a figure, as they are.

    Args:
        picture: the figure.
        lines: the lines.
        names: their names, in the same order.
    """
    # Matplotlib would leave out labels that begin with an underscore.
    legend = picture.legend(list(lines), ["?"] * len(names), loc="outside lower center", ncols=4, frameon=False)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set(text=visible(name), parse_math=False)


def look(i: int) -> dict[str, str]:
    """Returns the colour, line style and marker of the curve of a number."""
    return {
        "color": COLOURS[i % len(COLOURS)],
        "linestyle": STYLES[i // len(COLOURS) % len(STYLES)],
        "marker": MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],
    }
