"""The results of a comparison: one row per optimizer, from the records of its trainings."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from optkit.comparison import statistics, store
from optkit.comparison.baselines import YARDSTICK
from optkit.comparison.records import Record
from optkit.comparison.search import Point, Tried
from optkit.comparison.statistics import Estimate
from optkit.method import Method

# What cannot be estimated.
UNKNOWN = Estimate(math.nan, math.nan, math.nan, math.nan)
# How unlikely a difference must be by chance to count.
SIGNIFICANT = 0.05
# A learning rate is as good as the best one if its loss is above that one's by at most this share.
TOLERANCE = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """The result of one optimizer.

    Attributes:
        optimizer: Its name.
        rates: The learning rates that were tried, ascending.
        validation: The loss at the end of training on the validation examples, mean over seeds, at each of `rates` (at
            the best of other tuned hyperparameters); infinite where a training diverged.
        best: The index of the rate with the least of them.
        tuned: The other tuned hyperparameters at the best rate.
        steps: After how many steps the curve was recorded.
        curves: The validation loss at the best rate after each of `steps`, one curve a seed.
        test: The metrics on the test examples at the best rate: mean over seeds, half the width of its 95% interval.
        test_losses: The test loss at the best rate of each seed, in the order of the seeds.
        difference: The test loss less AdamW's, paired by seed: both start from the same weights and see the same
            batches. Unknown for AdamW itself and where one of them diverged.
        p: The p-value of that difference, corrected for all optimizers of the run.
        test_noise: Half the width of the 95% interval of that difference over the test examples, by resampling them,
            with the trainings as they are; NaN where it is unknown.
        rank: 1 + the number of optimizers whose test loss is significantly less, after correction for all pairs of the
            run. Equal ranks are ties.
        speed_up: The steps of AdamW's training over those after which this one, at its best rate and under its full
            schedule, has reached AdamW's final validation loss for good; NaN where it never does.
        speed_up_interval: Its 95% interval, from the seeds' own curves, paired; NaN where one of them never does.
        sensitivity: Over how many decades of learning rates the validation loss is at most 5% above the least one, mean
            over seeds with its interval.
        open_ended: Whether that range reaches the smallest or largest rate that was tried, so that it may be wider.
        relative_time: Milliseconds a step over AdamW's.
        state_bytes_per_parameter: Size of the optimizer's state.
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
    tuned: Mapping[str, float] = dataclasses.field(default_factory=dict)
    difference: Estimate = UNKNOWN
    p: float = math.nan
    test_noise: float = math.nan
    rank: int = 1
    speed_up_interval: tuple[float, float] = (math.nan, math.nan)
    sensitivity: Estimate = UNKNOWN
    open_ended: bool = False

    @property
    def diverged(self) -> bool:
        """Whether no learning rate survived."""
        return not np.isfinite(self.validation[self.best])

    @property
    def rate(self) -> float:
        """The best learning rate."""
        return float(self.rates[self.best])

    @property
    def edge(self) -> str:
        """An arrow if the best rate is the smallest or the largest that was tried, else nothing."""
        return "↓" if self.best == 0 else "↑" if self.best == len(self.rates) - 1 else ""


def numbers(values: Sequence[float | None]) -> np.ndarray:
    """Returns recorded numbers as an array; null, which stands for what is not finite, becomes infinity."""
    return np.array([math.inf if value is None else value for value in values])


def final_loss(training: Record) -> float:
    """Returns the validation loss at the end of a training, infinite if it diverged: if it grew more than tenfold."""
    curve = numbers(training["validation"]["loss"])
    return float(curve[-1]) if curve[-1] <= 10 * curve[0] else math.inf


def _losses(trainings):
    """The mean over seeds of the final validation loss for each learning rate and other hyperparameters."""
    by_point = {}
    for training in trainings:
        point = training["learning_rate"], tuple(training["tuned"].items())
        by_point.setdefault(point, []).append(final_loss(training))
    return {point: float(np.mean(losses)) for point, losses in by_point.items()}


def losses_by_rate(trainings: Sequence[Record]) -> dict[float, float]:
    """Returns the final validation loss for each learning rate, ascending.

    It is the mean over seeds, and the least over other hyperparameters.
    """
    by_rate = {}
    for (rate, _), loss in _losses(trainings).items():
        by_rate[rate] = min(loss, by_rate.get(rate, math.inf))
    return {rate: by_rate[rate] for rate in sorted(by_rate)}


def tried(trainings: Sequence[Record], method: Method) -> list[Tried]:
    """Returns the choices of hyperparameters of some trainings, and what came of them."""
    return [Tried({method.tuned: rate, **dict(others)}, loss) for (rate, others), loss in _losses(trainings).items()]


def points(trainings: Sequence[Record], method: Method) -> list[Point]:
    """Returns the choices of hyperparameters of some trainings."""
    return [point for point, _ in tried(trainings, method)]


def of_best(trainings: Sequence[Record]) -> list[Record]:
    """Returns the trainings, one a seed, with the hyperparameters of least validation loss."""
    losses = _losses(trainings)
    rate, others = min(sorted(losses), key=lambda point: losses[point])
    chosen = [one for one in trainings if (one["learning_rate"], tuple(one["tuned"].items())) == (rate, others)]
    return sorted(chosen, key=lambda training: training["seed"])


def interval(values: np.ndarray) -> tuple[float, float]:
    """Returns a mean and half the width of its 95% interval by Student's t, NaN for a single value."""
    found = statistics.student(values)
    return found.mean, (found.high - found.low) / 2


def reached(steps: np.ndarray, curve: np.ndarray, target: float) -> float:
    """Returns after how many steps a curve is at or below a target for good, between reports by interpolation.

    Args:
        steps: Where the curve was recorded.
        curve: Its values.
        target: The value to reach.

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


def decades(rates: np.ndarray, losses: np.ndarray) -> tuple[float, bool]:
    """Measures how wide the range of good learning rates around the best one is.

    Args:
        rates: Learning rates, ascending.
        losses: The loss at each of them; infinite where a training diverged.

    Returns:
        The decades in which the loss is at most `TOLERANCE` above the least one, between rates by interpolation, and
        whether the range ends where no more rates were tried; 0 if all of them diverged.
    """
    best = int(np.argmin(losses))
    if not np.isfinite(losses[best]):
        return 0.0, False
    limit = losses[best] + TOLERANCE * abs(losses[best])
    places = np.log10(rates)

    def end(direction):
        last = best
        while 0 <= last + direction < len(rates) and losses[last + direction] <= limit:
            last += direction
        beyond = last + direction
        if not 0 <= beyond < len(rates):
            return places[last], True
        if not np.isfinite(losses[beyond]):
            return places[last], False
        share = (limit - losses[last]) / (losses[beyond] - losses[last])
        return places[last] + share * (places[beyond] - places[last]), False

    (low, below), (high, above) = end(-1), end(1)
    return float(high - low), below or above


def summarize(records: Sequence[Record], folder: pathlib.Path | None = None) -> list[Row]:
    """Chooses each optimizer's learning rate on validation and measures it on test.

    Args:
        records: The lines of `results.jsonl`; optimizers that have not finished are left out.
        folder: The run's folder, for the test losses of each example; None to leave test noise unknown.

    Returns:
        A row for each optimizer, the least test loss first, diverged ones last.
    """
    settings = records[0]["settings"]
    rows, of_examples = [], {}
    for optimizer in settings["optimizers"]:
        own = [record for record in records[1:] if record["optimizer"] == optimizer]
        finished = [record for record in own if record["record"] == "round"]
        if sum(len(record["seeds"]) for record in finished) < settings["rounds"] * len(settings["seeds"]):
            continue
        trainings = [record for record in own if record["record"] == "training"]
        rows.append(_row(optimizer, trainings, finished))
        if folder is not None:
            of_examples[optimizer] = _of_examples(folder, optimizer, of_best(trainings))
    yardstick = next((row for row in rows if row.optimizer == YARDSTICK), None)
    if yardstick:
        rows = [_relative(row, yardstick, of_examples) for row in rows]
        corrected = statistics.holm([row.difference.p for row in rows])
        rows = [dataclasses.replace(row, p=float(p)) for row, p in zip(rows, corrected, strict=True)]
    return sorted(_ranked(rows), key=lambda row: (row.diverged, row.test["loss"][0]))


def _row(optimizer, trainings, finished):
    by_rate = losses_by_rate(trainings)
    rates, validation = np.array(list(by_rate)), np.array(list(by_rate.values()))
    chosen = of_best(trainings)
    seeds = sorted({training["seed"] for training in trainings})
    of_seeds = [losses_by_rate([one for one in trainings if one["seed"] == seed]) for seed in seeds]
    widths = [decades(rates, np.array(list(losses.values()))) for losses in of_seeds]
    times = [time for record in finished for time in record["milliseconds_per_step"]]
    return Row(
        optimizer=optimizer,
        rates=rates,
        validation=validation,
        best=list(by_rate).index(chosen[0]["learning_rate"]),
        tuned=chosen[0]["tuned"],
        steps=np.array(chosen[0]["steps"]),
        curves=np.stack([numbers(training["validation"]["loss"]) for training in chosen]),
        test={name: interval(numbers([training["test"][name] for training in chosen])) for name in chosen[0]["test"]},
        test_losses=numbers([training["test"]["loss"] for training in chosen]),
        speed_up=math.nan,
        sensitivity=statistics.student(np.array([width for width, _ in widths])),
        open_ended=any(is_open for _, is_open in widths),
        relative_time=float(np.median(times)) if times else math.nan,
        state_bytes_per_parameter=finished[0]["state_bytes_per_parameter"],
    )


def _of_examples(folder, optimizer, trainings):
    """The mean over seeds of the test loss on each example; None where files are missing."""
    there = store.read_examples(folder, optimizer)
    keys = [(training["learning_rate"], *training["tuned"].values(), training["seed"]) for training in trainings]
    return np.mean([there[key] for key in keys], axis=0, dtype=float) if there.keys() >= set(keys) else None


def _relative(row, yardstick, of_examples):
    relative_time = row.relative_time / yardstick.relative_time
    if row is yardstick or row.diverged or yardstick.diverged:
        alone = math.nan if row.diverged or yardstick.diverged else 1.0
        return dataclasses.replace(row, relative_time=relative_time, speed_up=alone)
    steps = yardstick.steps[-1]

    def speed_up(curve, target):
        return float(steps / max(reached(row.steps, curve, target), 1.0))

    by_seed = [speed_up(*pair) for pair in zip(row.curves, yardstick.curves[:, -1], strict=True)]
    logarithms = statistics.estimate(np.log(by_seed))
    own, others = of_examples.get(row.optimizer), of_examples.get(yardstick.optimizer)
    noise = math.nan
    if own is not None and others is not None and own.shape == others.shape:
        found = statistics.estimate(own - others)
        noise = (found.high - found.low) / 2
    return dataclasses.replace(
        row,
        relative_time=relative_time,
        difference=statistics.estimate(row.test_losses - yardstick.test_losses),
        test_noise=noise,
        speed_up=speed_up(row.curves.mean(axis=0), yardstick.validation[yardstick.best]),
        speed_up_interval=(math.exp(logarithms.low), math.exp(logarithms.high)),
    )


def _ranked(rows):
    """Ranks optimizers by which others are significantly better, all pairs tested."""
    pairs = [(i, j) for i in range(len(rows)) for j in range(i) if not (rows[i].diverged or rows[j].diverged)]
    differences = [statistics.student(rows[i].test_losses - rows[j].test_losses) for i, j in pairs]
    corrected = statistics.holm([difference.p for difference in differences])
    ahead = [sum(not row.diverged for row in rows) if row.diverged else 0 for row in rows]
    for (i, j), difference, p in zip(pairs, differences, corrected, strict=True):
        if p < SIGNIFICANT:
            ahead[i if difference.mean > 0 else j] += 1
    return [dataclasses.replace(row, rank=1 + count) for row, count in zip(rows, ahead, strict=True)]


def resolution(losses: np.ndarray, difference: float) -> str | None:
    """Says which differences the seeds of a run can show, and how many seeds would show a stated one.

    Args:
        losses: Test losses of AdamW's best rate, one a seed: a pilot. The difference of two optimizers is taken to
            vary as that of two such losses that have nothing in common; the same seeds for both make it vary less.
        difference: The stated difference, relative to AdamW's loss.

    Returns:
        A sentence; None where nothing can be said, as with a single seed.
    """
    if len(losses) < 2 or not np.isfinite(losses).all():
        return None
    deviation = math.sqrt(2) * float(np.std(losses, ddof=1))
    loss, seeds = abs(float(np.mean(losses))), len(losses)
    smallest = statistics.smallest_difference(deviation, seeds)
    needed = statistics.seeds_needed(difference * loss, deviation)
    return (
        f"AdamW's test loss varies so much with the seed that {seeds} seeds show, in four of five runs, "
        f"a difference of {smallest:.2g} ({smallest / loss:.0%}); one of {difference:.3g} of the loss needs "
        f"{'more than 1,000' if needed is None else needed} seeds."
    )


def losses_of_best(trainings: Sequence[Record]) -> np.ndarray:
    """Returns the test losses, one a seed, of an optimizer's best hyperparameters."""
    return numbers([training["test"]["loss"] for training in of_best(trainings)])
