"""The figure of a comparison."""

import io
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
from matplotlib import ticker
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from optkit.comparison.baselines import YARDSTICK
from optkit.comparison.records import Record
from optkit.comparison.results import Row
from optkit.comparison.store import write
from optkit.comparison.terminal import visible

# Okabe and Ito's colours, which people with any colour vision can tell apart, with Tol's wine for their yellow, which
# is too pale for a line; markers tell apart what still looks alike, and line styles carry on where colours end.
_SVG = "http://www.w3.org/2000/svg"
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


# More curves than this hide each other.
MOST_CURVES = 10


class Picture(Figure):
    """A figure that notebooks show, whether they use Matplotlib's pyplot or not."""

    def _repr_png_(self) -> bytes:
        return as_png(self)


def draw(header: Record, rows: Sequence[Row]) -> Picture:
    """Draws learning curves beside the loss at each learning rate.

    Args:
        header: The run's first record.
        rows: From `results.summarize`; of many, the best ones and AdamW are drawn.
    """
    settings = header["settings"]
    with mpl.rc_context(STYLE):
        picture = Picture(figsize=(11, 4.6), layout="constrained")
        learning, sensitivity = picture.subplots(1, 2, sharey=True)
        alive = [row for row in rows if not row.diverged]
        shown = [row for i, row in enumerate(alive) if i < MOST_CURVES or row.optimizer == YARDSTICK]
        # In the order of the settings, so that a curve looks the same as results come in.
        names = [name for name in settings["optimizers"] if any(row.optimizer == name for row in shown)]
        looks = [look(names.index(row.optimizer)) for row in shown]
        for i, (row, style) in enumerate(zip(shown, looks, strict=True)):
            low, mean, high = row.curves.min(axis=0), row.curves.mean(axis=0), row.curves.max(axis=0)
            learning.plot(row.steps, mean, markersize=4, markevery=(2 * i % 10, 10), gid=row.optimizer, **style)
            learning.fill_between(row.steps, low, high, color=style["color"], alpha=0.12, linewidth=0)
        learning.set(xlabel="step", ylabel="validation loss", yscale="log", title="Over the training, at the best rate")
        limits = learning.get_ylim()
        for row, style in zip(shown, looks, strict=True):
            finite = np.isfinite(row.validation)
            sensitivity.plot(row.rates[finite], row.validation[finite], linewidth=1.2, **{**style, "marker": ""})
            # What lies outside is not drawn.
            inside = (row.validation >= limits[0]) & (row.validation <= limits[1])
            marks = {**style, "linestyle": "", "gid": row.optimizer}
            sensitivity.plot(row.rates[inside], row.validation[inside], markersize=3, **marks)
            sensitivity.plot(row.rate, row.validation[row.best], markersize=8, markeredgecolor="white", **marks)
        sensitivity.set(xlabel="learning rate", xscale="log", ylim=limits, title="At its end, by learning rate")
        learning.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        add_legend(picture, learning.lines, [row.optimizer for row in shown])
        seeds, tried = len(settings["seeds"]), settings["rates"] * settings["rounds"]
        whose = "every optimizer" if len(shown) == len(alive) else f"the best of {len(alive)} optimizers"
        title = f"{settings['task']}: {whose} with {tried} learning rates x {seeds} seeds (bands: all seeds)"
        add_title(picture, title)
    return picture


def save(picture: Figure, file: pathlib.Path) -> None:
    """Writes a figure, whole or not at all.

    Args:
        picture: The figure.
        file: Where to write it.
    """
    write(file, as_png(picture))


def as_png(picture: Figure) -> bytes:
    """Returns a figure as a PNG file."""
    content = io.BytesIO()
    picture.savefig(content, dpi=150)
    return content.getvalue()


def as_svg(picture: Figure) -> str:
    """Returns a figure of `draw` as an SVG element whose marks say their values when the pointer rests on them."""
    names = {}
    for number, axes in enumerate(picture.axes):
        for i, line in enumerate(axes.lines):
            if line.get_gid() is not None:
                names[f"marks-{number}-{i}"] = (line, axes.get_xlabel(), line.get_gid())
    for gid, (line, _, _) in names.items():
        line.set_gid(gid)
    content = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "optkit"}):
        picture.savefig(content, format="svg", metadata={"Date": None})
    for line, _, name in names.values():
        line.set_gid(name)
    ET.register_namespace("", _SVG)
    # Browsers know it by this name only.
    ET.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ET.fromstring(content.getvalue())  # noqa: S314  (Matplotlib's own)
    root.set("role", "img")
    root.set("aria-label", "validation loss during training, and at its end by learning rate")
    for group in root.iter(f"{{{_SVG}}}g"):
        if group.get("id") in names:
            line, what, name = names[group.get("id")]
            points = np.column_stack([np.asarray(values, float) for values in line.get_data()])
            marks = list(group.iter(f"{{{_SVG}}}use"))
            every = line.get_markevery()
            points = points if every is None else points[every[0] :: every[1]]
            for mark, (x, y) in zip(marks, points, strict=True):
                text = f"{visible(name)}: {what} {x:.4g}, validation loss {y:.4g}"
                ET.SubElement(mark, f"{{{_SVG}}}title").text = text
    return ET.tostring(root, encoding="unicode")


def add_title(picture: Figure, title: str) -> None:
    """Writes a title over a figure, as it is: a name from a results file is no formula."""
    picture.suptitle(visible(title), x=0.01, ha="left", weight="bold", parse_math=False)


def add_legend(picture: Figure, lines: Iterable[Artist], names: Sequence[str]) -> None:
    """Writes the names of lines below a figure, as they are.

    Args:
        picture: The figure.
        lines: The lines.
        names: Their names, in the same order.
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
