"""The table of a comparison, for terminals and notebooks."""

import math
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from optkit.comparison.baselines import YARDSTICK
from optkit.comparison.records import Record
from optkit.comparison.results import SIGNIFICANT, Row
from optkit.comparison.terminal import visible

CAPTION = (
    "The learning rate is chosen on validation data; the test columns are means and 95% intervals over seeds at the "
    "end of training. Optimizers of the same rank are tied: no test tells them apart. Minus adamw: the difference in "
    "test loss, paired by seed; with * if it is significant at 5% after Holm's correction for all optimizers of the "
    "run. An arrow means that the best rate is the smallest or the largest that was tried. Speed-up: AdamW's steps "
    "divided by the steps after which the method's validation loss, under its own full schedule, stays at or below "
    "AdamW's final loss; <1: never. Its 95% interval is paired by seed, too; it is missing if one of the seeds never "
    "gets there. In grey: 1 is not excluded."
)


def title(header: Record) -> str:
    """Returns a line that says what was compared."""
    settings = header["settings"]
    seeds, tried = len(settings["seeds"]), settings["rates"] * settings["rounds"]
    what = f"choices of {', '.join(['learning rate', *settings['tune']])}" if settings["tune"] else "learning rates"
    return f"{visible(settings['task'])}: {settings['steps']} steps; {tried} {what} x {seeds} seeds for everyone"


def table(header: Record, rows: Sequence[Row]) -> Table:
    """Lays the rows out for a terminal.

    Args:
        header: The run's first record.
        rows: From `summarize`.

    Returns:
        The table.
    """
    layout = Table(pad_edge=False, title=title(header), caption=CAPTION)
    layout.add_column("", justify="right")
    layout.add_column("optimizer", no_wrap=True)
    metrics = sorted(rows[0].test, key="loss".__ne__) if rows else []
    test = [f"test {visible(metric)}" for metric in metrics]
    for name in [*test, "minus adamw", "rate", "speed up", "time / step", "state B / param"]:
        layout.add_column(name, justify="right")
    for row in rows:
        if row.diverged:
            results = ["diverged", *[""] * (len(metrics) + 2)]
        else:
            rate = f"{row.rate:.2g} {row.edge}".rstrip()
            results = [*(plus_minus(*row.test[metric]) for metric in metrics), difference(row), rate, _speed_up(row)]
        cells = [*results, f"{row.relative_time:.2f}x", f"{row.state_bytes_per_parameter:.1f}"]
        layout.add_row(f"{row.rank}", visible(row.optimizer), *cells)
    return layout


def plus_minus(mean: float, half: float) -> str:
    """Returns a mean with half the width of its interval, if it has one, to the interval's precision."""
    if not half > 0:
        return f"{mean:.4g}" if math.isnan(half) else f"{mean:.4g} ± 0"
    decimals = max(0, 1 - math.floor(math.log10(half)))  # two significant digits of the interval
    return f"{mean:.{decimals}f} ± {half:.{decimals}f}"


def difference(row: Row) -> str:
    """Returns the difference from AdamW with its interval, starred if it is significant."""
    if math.isnan(row.difference.mean):
        return ""
    mean, low, high, _ = row.difference
    # A bootstrap's interval is not symmetric.
    uneven = abs((low + high) / 2 - mean) > 0.01 * (high - low)
    shown = f"{mean:.3g} ({low:.3g} to {high:.3g})" if uneven else plus_minus(mean, (high - low) / 2)
    return shown + ("*" if row.p < SIGNIFICANT else "")


def speed_up(row: Row) -> tuple[str, bool]:
    """Returns the speed-up with its interval, and whether that leaves open that there is none."""
    if math.isnan(row.speed_up):
        return "<1", False
    low, high = row.speed_up_interval
    shown = f"{row.speed_up:.2f}x"
    if math.isnan(low):
        return shown, row.optimizer != YARDSTICK
    return f"{shown} ({low:.2f} to {high:.2f})", low <= 1 <= high


def _speed_up(row):
    shown, is_open = speed_up(row)
    return Text(shown, style="dim" if is_open else "")
