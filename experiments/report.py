"""The results of a comparison: one row per optimizer, from the records of its trainings."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from rich.table import Table
from rich.text import Text
from scipy import stats

from experiments import statistics
from experiments.optimizers import YARDSTICK
from experiments.records import Record
from experiments.statistics import Estimate
from experiments.terminal import visible

# What cannot be estimated.
UNKNOWN = Estimate(math.nan, math.nan, math.nan, math.nan)
# How unlikely a difference must be by chance to be marked.
SIGNIFICANT = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """The result of one optimizer.

    Attributes:
        optimizer: its name.
        rates: the learning rates that were tried, ascending.
        validation: the loss at the end of training on the validation examples, mean over seeds, at each of `rates`;
            infinite where a training diverged.
        best: the index of the rate with the least of them.
        steps: after how many steps the curve was recorded.
        curves: the validation loss at the best rate after each of `steps`, one curve a seed.
        test: the metrics on the test examples at the best rate: mean over seeds, half the width of its 95% interval.
        test_losses: the test loss at the best rate of each seed, in the order of the seeds.
        difference: the test loss less AdamW's, paired by seed: both start from the same weights and see the same
            batches. Unknown for AdamW itself and where one of them diverged.
        p: the p-value of that difference, corrected for all optimizers of the run.
        speed_up: the steps of AdamW's training over those after which this one, at its best rate and under its full
            schedule, has reached AdamW's final validation loss for good; NaN where it never does.
        speed_up_interval: its 95% interval, from the seeds' own curves, paired; NaN where one of them never does.
        relative_time: milliseconds a step over AdamW's.
        state_bytes_per_parameter: size of the optimizer's state.
    """

    optimizer: str
    rates: np.ndarray
    validation: np.ndarray
    best: int
    steps: np.ndarray
    curves: np.ndarray
    test: Mapping[str, tuple[float, float]]
    test_losses: np.ndarray
    speed_up: float
    relative_time: float
    state_bytes_per_parameter: float
    difference: Estimate = UNKNOWN
    p: float = math.nan
    speed_up_interval: tuple[float, float] = (math.nan, math.nan)

    @property
    def diverged(self) -> bool:
        """Whether no learning rate survived."""
        return not np.isfinite(self.validation[self.best])


def numbers(values: Sequence[float | None]) -> np.ndarray:
    """Returns recorded numbers as an array; null, which stands for what is not finite, becomes infinity."""
    return np.array([math.inf if value is None else value for value in values])


def final_loss(training: Record) -> float:
    """Returns the validation loss at the end of a training, infinite if it diverged: if it grew more than tenfold."""
    curve = numbers(training["validation"]["loss"])
    return float(curve[-1]) if curve[-1] <= 10 * curve[0] else math.inf


def losses_by_rate(trainings: Sequence[Record]) -> dict[float, float]:
    """Returns the mean over seeds of the final validation loss for each learning rate, ascending."""
    by_rate = {}
    for training in trainings:
        by_rate.setdefault(training["learning_rate"], []).append(final_loss(training))
    return {rate: float(np.mean(by_rate[rate])) for rate in sorted(by_rate)}


def interval(values: np.ndarray) -> tuple[float, float]:
    """Returns a mean and half the width of its 95% interval by Student's t, NaN for a single value."""
    if len(values) < 2 or not np.isfinite(values).all():
        return float(np.mean(values)), math.nan
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return float(np.mean(values)), float(half)


def reached(steps: np.ndarray, curve: np.ndarray, target: float) -> float:
    """Returns after how many steps a curve is at or below a target for good, between reports by interpolation.

    Args:
        steps: where the curve was recorded.
        curve: its values.
        target: the value to reach.

    Returns:
        The steps; NaN if the curve ends above the target.
    """
    above = np.flatnonzero(~(curve <= target))
    if len(above) == 0:
        return float(steps[0])
    last = above[-1]
    if last == len(curve) - 1:
        return math.nan
    if not np.isfinite(curve[last]):
        return float(steps[last + 1])
    return float(np.interp(target, curve[[last + 1, last]], steps[[last + 1, last]]))


def summarize(records: Sequence[Record]) -> list[Row]:
    """Chooses each optimizer's learning rate on validation and measures it on test.

    Args:
        records: the lines of `results.jsonl`; optimizers that have not finished are left out.

    Returns:
        A row for each optimizer, the least test loss first, diverged ones last.
    """
    header = records[0]
    rounds = header["settings"]["rounds"]
    rows = []
    for optimizer in header["settings"]["optimizers"]:
        own = [record for record in records if record.get("optimizer") == optimizer]
        finished = [record for record in own if record["record"] == "round"]
        if len(finished) < rounds:
            continue
        trainings = [record for record in own if record["record"] == "training"]
        by_rate = losses_by_rate(trainings)
        rates, validation = np.array(list(by_rate)), np.array(list(by_rate.values()))
        best = int(np.argmin(validation))
        chosen = [training for training in trainings if training["learning_rate"] == rates[best]]
        chosen.sort(key=lambda training: header["settings"]["seeds"].index(training["seed"]))
        rows.append(
            Row(
                optimizer=optimizer,
                rates=rates,
                validation=validation,
                best=best,
                steps=np.array(chosen[0]["steps"]),
                curves=np.stack([numbers(training["validation"]["loss"]) for training in chosen]),
                test={
                    name: interval(numbers([training["test"][name] for training in chosen]))
                    for name in chosen[0]["test"]
                },
                test_losses=numbers([training["test"]["loss"] for training in chosen]),
                speed_up=math.nan,
                relative_time=float(
                    np.median([time for record in finished for time in record["milliseconds_per_step"]])
                ),
                state_bytes_per_parameter=finished[0]["state_bytes_per_parameter"],
            )
        )
    yardstick = next((row for row in rows if row.optimizer == YARDSTICK), None)
    if yardstick:
        rows = [_relative(row, yardstick) for row in rows]
        corrected = statistics.holm([row.difference.p for row in rows])
        rows = [dataclasses.replace(row, p=float(p)) for row, p in zip(rows, corrected, strict=True)]
    return sorted(rows, key=lambda row: (row.diverged, row.test["loss"][0]))


def _relative(row, yardstick):
    relative_time = row.relative_time / yardstick.relative_time
    if row is yardstick or row.diverged or yardstick.diverged:
        alone = math.nan if row.diverged or yardstick.diverged else 1.0
        return dataclasses.replace(row, relative_time=relative_time, speed_up=alone)
    steps = yardstick.steps[-1]

    def speed_up(curve, target):
        return float(steps / max(reached(row.steps, curve, target), 1.0))

    by_seed = [speed_up(*pair) for pair in zip(row.curves, yardstick.curves[:, -1], strict=True)]
    logarithms = statistics.estimate(np.log(by_seed))
    return dataclasses.replace(
        row,
        relative_time=relative_time,
        difference=statistics.estimate(row.test_losses - yardstick.test_losses),
        speed_up=speed_up(row.curves.mean(axis=0), yardstick.validation[yardstick.best]),
        speed_up_interval=(math.exp(logarithms.low), math.exp(logarithms.high)),
    )


def resolution(rows: Sequence[Row]) -> str | None:
    """Says which differences from AdamW the seeds of a run can show, and how many seeds would show one of 1%.

    Args:
        rows: from `summarize`.

    Returns:
        A sentence; None where there is no AdamW, nothing beside it, or a single seed.
    """
    yardstick = next((row for row in rows if row.optimizer == YARDSTICK and not row.diverged), None)
    others = [row for row in rows if not math.isnan(row.difference.low)]
    if yardstick is None or not others:
        return None
    seeds = len(yardstick.test_losses)
    deviation = float(np.median([np.std(row.test_losses - yardstick.test_losses, ddof=1) for row in others]))
    loss = abs(yardstick.test["loss"][0])
    smallest = statistics.smallest_difference(deviation, seeds)
    needed = statistics.seeds_needed(0.01 * loss, deviation)
    return (
        f"At this spread, {seeds} seeds show a difference in test loss of {smallest:.2g} ({smallest / loss:.0%} of "
        f"AdamW's) in four of five runs; one of 1% needs {'more than 1,000' if needed is None else needed} seeds."
    )


def table(header: Record, rows: Sequence[Row]) -> Table:
    """Lays the rows out for a terminal.

    Args:
        header: the run's first record.
        rows: from `summarize`.

    Returns:
        The table.
    """
    settings = header["settings"]
    seeds, tried = len(settings["seeds"]), settings["rates"] * settings["rounds"]
    task = visible(settings["task"])
    layout = Table(
        pad_edge=False,
        title=f"{task}: {settings['steps']} steps; {tried} learning rates x {seeds} seeds for everyone",
        caption=(
            "The learning rate is chosen on validation data; the test columns are means and 95% intervals over seeds "
            "at the end of training. Minus adamw: the difference in test loss, paired by seed; with * if it is "
            "significant at 5% after Holm's correction for all optimizers of the run. An arrow means that the best "
            "rate is the smallest or the largest that was tried. Speed-up: AdamW's steps divided by the steps after "
            "which the method's validation loss, under its own full schedule, stays at or below AdamW's final loss; "
            "<1: never. Its 95% interval is paired by seed, too; it is missing if one of the seeds never gets there. "
            "In grey: 1 is not excluded."
        ),
    )
    layout.add_column("optimizer", no_wrap=True)
    metrics = sorted(rows[0].test, key="loss".__ne__) if rows else []
    test = [f"test {visible(metric)}" for metric in metrics]
    for name in [*test, "minus adamw", "rate", "speed up", "time / step", "state B / param"]:
        layout.add_column(name, justify="right")
    for row in rows:
        if row.diverged:
            results = ["diverged", *[""] * (len(metrics) + 2)]
        else:
            rate = f"{row.rates[row.best]:.2g}{_edge(row)}"
            results = [*(_plus_minus(row.test[metric]) for metric in metrics), _difference(row), rate, _speed_up(row)]
        cells = [*results, f"{row.relative_time:.2f}x", f"{row.state_bytes_per_parameter:.1f}"]
        layout.add_row(visible(row.optimizer), *cells)
    return layout


def _plus_minus(estimate):
    mean, half = estimate
    if not half > 0:  # a single seed has no interval
        return f"{mean:.4g}" if math.isnan(half) else f"{mean:.4g} ± 0"
    decimals = max(0, 1 - math.floor(math.log10(half)))  # two significant digits of the interval
    return f"{mean:.{decimals}f} ± {half:.{decimals}f}"


def _difference(row):
    if math.isnan(row.difference.mean):
        return ""
    mean, low, high, _ = row.difference
    # A bootstrap's interval is not symmetric.
    uneven = abs((low + high) / 2 - mean) > 0.01 * (high - low)
    shown = f"{mean:.3g} ({low:.3g} to {high:.3g})" if uneven else _plus_minus((mean, (high - low) / 2))
    return shown + ("*" if row.p < SIGNIFICANT else "")


def _speed_up(row):
    if math.isnan(row.speed_up):
        return "<1"
    low, high = row.speed_up_interval
    shown = f"{row.speed_up:.2f}x"
    if math.isnan(low):
        return shown if row.optimizer == YARDSTICK else Text(shown, style="dim")
    return Text(f"{shown} ({low:.2f} to {high:.2f})", style="dim" if low <= 1 <= high else "")


def _edge(row):
    return " ↓" if row.best == 0 else " ↑" if row.best == len(row.rates) - 1 else ""
