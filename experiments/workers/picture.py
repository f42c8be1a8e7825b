"""What a run on many workers found: the figure."""

import pathlib
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.workers import report, times
from experiments.workers.times import Clock
from optkit.comparison.figure import STYLE, add_legend, add_title, look, save
from optkit.comparison.records import Record

# Lines whose ends differ by more than this factor are drawn on a logarithmic scale.
FAR = 4


def draw(records: Sequence[Record], clock: Clock, file: pathlib.Path) -> None:
    """Draws loss and consensus distance, against steps, bytes, and time on the first network.

    Args:
        records: the run's results.
        clock: the networks.
        file: where to write it.
    """
    settings, network = records[0]["settings"], clock.networks[0]
    with mpl.rc_context(STYLE):
        picture = Figure(figsize=(15, 7.5), layout="constrained")
        axes = picture.subplots(2, 3, sharex="col", sharey="row")
        for i, row in enumerate(report.trainings(records)):
            steps, style = np.asarray(row["steps"]), look(i)
            against = (steps, times.megabytes(row), clock.seconds(settings, row, network))
            # All start from the same parameters, at no distance, of which there is no logarithm.
            for line, (first, curve) in enumerate(((0, row["validation"]["loss"]), (1, row["consensus"]))):
                values = np.array(curve, float)
                values[values <= 0] = np.nan
                for column, x in enumerate(against):
                    axes[line, column].plot(x[first:], values[first:], markersize=4, markevery=(2 * i, 10), **style)
        axes[0, 0].set(ylabel="validation loss of what is reported", yscale="log", title="Against steps")
        axes[1, 0].set(ylabel="distance from consensus", yscale="log", xlabel="steps")
        axes[0, 1].set(title="Against what each worker has sent")
        axes[1, 1].set(xlabel="megabytes sent by each worker")
        latency = f"{1e3 * network.latency:g} ms"
        axes[0, 2].set(title=f"Against time at {report.name(network.bandwidth)} and {latency} latency")
        axes[1, 2].set(xlabel="seconds by formula")
        for axis in axes[1, 1:]:
            spread_out(axis)
        for axis in axes[:, 0]:
            axis.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        add_legend(picture, axes[0, 0].lines, [row["optimizer"] for row in report.trainings(records)])
        add_title(picture, report.title(settings))
        save(picture, file)


def spread_out(axis: Axes) -> None:
    """Takes a logarithmic scale where a line ends far before another, so that the shorter one can be read.

    Args:
        axis: what the lines are drawn on.
    """
    ends = [np.max(line.get_xdata()) for line in axis.lines]
    ends = [end for end in ends if end > 0]
    if ends and max(ends) > FAR * min(ends):
        axis.set_xscale("log", nonpositive="mask")
        axis.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
