"""`python -m experiments compare`: compares optimizers under equal tuning."""

import dataclasses
import hashlib
import json
import math
import pathlib
import time
from collections.abc import Sequence

import numpy as np
from rich.console import Console

from experiments import environment, figure, optimizers, report, tasks
from experiments.errors import UserError
from experiments.gradients import require_trainable
from experiments.progress import Progress
from experiments.records import Record, read_records
from experiments.store import RunFolder
from experiments.training import Sweep, Trainings, takes_weight_decay
from optkit.method import Method

# Neighbouring learning rates of the first round are this far apart.
SPACING = math.sqrt(10)
REPORTS = 40
# A checkpoint costs about as much as 100 steps of the smallest task.
SECONDS_BETWEEN_CHECKPOINTS = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to compare.

    Attributes:
        task: name of the task.
        optimizers: names of optimizers, variants as `name:variant`.
        steps: length of every training; None for the task's own.
        rates: how many learning rates a round tries.
        rounds: how many rounds.
        seeds: with how many seeds each is trained.
        weight_decay: for all optimizers that have it.
        workers: over how many devices each batch is split.
        out: the run's folder; None for one named after everything that shapes the results.
    """

    task: str = "digits-mlp"
    optimizers: tuple[str, ...] = optimizers.DEFAULT
    steps: int | None = None
    rates: int = 6
    rounds: int = 3
    seeds: int = 3
    weight_decay: float = 0.0
    workers: int = 1
    out: pathlib.Path | None = None


def grid(center: float, count: int) -> list[float]:
    """Returns the learning rates of the first round: log-spaced around `center`."""
    return [center * SPACING ** (i - (count - 1) / 2) for i in range(count)]


def next_rates(losses: dict[float, float], count: int) -> list[float]:
    """Chooses the learning rates of a further round, as many for every optimizer.

    Half of them go to either side of the best rate so far: evenly (in logarithms) between it and its neighbour or,
    where it lies on the edge of what was tried, onwards beyond it at the first round's spacing.

    Args:
        losses: final validation loss by learning rate, ascending; infinite where training diverged.
        count: how many rates to choose.

    Returns:
        New rates, ascending.
    """
    rates = list(losses)
    best = int(np.argmin(list(losses.values())))
    below, above = count // 2, count - count // 2
    if best > 0:
        lower = np.geomspace(rates[best - 1], rates[best], below + 2)[1:-1].tolist()
    else:
        lower = [rates[0] * SPACING**-i for i in range(below, 0, -1)]
    if best < len(rates) - 1:
        upper = np.geomspace(rates[best], rates[best + 1], above + 2)[1:-1].tolist()
    else:
        upper = [rates[-1] * SPACING**i for i in range(1, above + 1)]
    return lower + upper


def report_steps(steps: int) -> list[int]:
    """Returns the steps after which a training reports, evenly spaced; the first one is 0, the last one `steps`."""
    stride = math.ceil(steps / REPORTS)
    return [*range(0, steps, stride), steps]


def run(options: Options, console: Console, entries: Sequence[Method] | None = None) -> None:
    """Compares optimizers, or continues where an earlier run of the same command was stopped.

    Args:
        options: what to compare.
        console: where to show it.
        entries: optimizers in place of those that `options` names; AdamW is always among them.

    Raises:
        UserError: if something is asked that cannot be done.
    """
    methods = optimizers.find(options.optimizers, entries)
    task = tasks.load(options.task)
    if task.batch_size % options.workers:
        raise UserError(f"--workers {options.workers} does not divide the batch of {options.task}, {task.batch_size}")
    for method in methods:
        require_trainable(task, method, options.workers)
    steps = options.steps or task.steps
    seeds = tuple(range(options.seeds))
    header = {
        "record": "run",
        "settings": {
            "task": options.task,
            "optimizers": [method.name for method in methods],
            "steps": steps,
            "batch_size": task.batch_size,
            "rates": options.rates,
            "rounds": options.rounds,
            "seeds": list(seeds),
            "weight_decay": options.weight_decay,
            "workers": options.workers,
        },
        "data": dict(task.facts),
        "versions": environment.versions(),
        "hardware": environment.hardware(),
    }
    folder = options.out or pathlib.Path("runs", f"compare-{options.task}-{short_digest(header)}")
    with RunFolder.locked(folder) as run_folder:
        if not run_folder.records:
            run_folder.clear()
            run_folder.append([header])
        refuse_another(run_folder.records[0], header, folder)
        sweep = Sweep(task, seeds=seeds, rates=options.rates, steps=steps, workers=options.workers)
        lacking = [method.name for method in methods if not takes_weight_decay(method)]
        if options.weight_decay and lacking:
            console.print(f"without weight decay, which they do not have: {', '.join(lacking)}")
        console.print(f"{options.task} on {header['hardware']['devices']}; results go to {folder}")
        with Progress(console, steps * options.rounds) as progress:
            for method in methods:
                _train(sweep, method, options, run_folder, progress)
        show(read_records(folder), folder, console)


def show_only(folder: pathlib.Path, console: Console) -> None:
    """Draws a run's table and figure again.

    Args:
        folder: the run's folder.
        console: where to show the table.

    Raises:
        UserError: if there are no results.
    """
    records = read_records(folder)
    if not records:
        raise UserError(f"there is no results.jsonl in {folder}")
    if records[0]["record"] != "run":
        raise UserError(f"{folder} is not the result of a comparison")
    show(records, folder, console)


def show(records: Sequence[Record], folder: pathlib.Path, console: Console) -> None:
    """Prints the table and draws the figure.

    Args:
        records: the run's results.
        folder: where the figure goes.
        console: where the table goes.
    """
    rows = report.summarize(records)
    console.print(report.table(records[0], rows))
    resolution = report.resolution(rows)
    if resolution:
        console.print(resolution)
    file = folder / "figure.png"
    figure.draw(records[0], rows, file)
    console.print(f"figure: {file}")


def _train(sweep, method, options, run_folder, progress):
    """Trains one optimizer: every round that its results lack."""
    trainings = None
    with progress.optimizer(method.name) as show_progress:
        for number in range(options.rounds):
            own = [record for record in run_folder.records if record.get("optimizer") == method.name]
            if any(record["record"] == "round" and record["round"] == number for record in own):
                continue
            trainings = trainings or Trainings(sweep, method, options.weight_decay)
            tried = report.losses_by_rate([record for record in own if record["record"] == "training"])
            rates = next_rates(tried, options.rates) if tried else grid(method.grid, options.rates)
            if len({np.float32(rate) for rate in (*tried, *rates)}) < len(tried) + options.rates:
                raise UserError(
                    f"in round {number + 1} learning rates of {method.name} differ by less than float32 can represent; "
                    f"use --rounds {number}"
                )
            records = _train_round(trainings, sweep, method.name, number, rates, run_folder, show_progress)
            run_folder.append(records)
            run_folder.clear()


def _train_round(trainings, sweep, name, number, rates, run_folder, show_progress):
    """Trains one optimizer at each of `rates` with each seed, and returns the records of it."""
    replicas = len(sweep.seeds)
    peaks = np.repeat(np.asarray(rates, np.float32), replicas // len(rates))
    ends = report_steps(sweep.steps)
    unit = f"{name}-{number}"

    carry = trainings.start(peaks)
    validation = trainings.evaluate(carry, sweep.task.validation)
    empty = np.full((len(ends), replicas), np.nan, np.float32)
    curves = {"train_loss": empty.copy(), "validation": {metric: empty.copy() for metric in validation}}
    curves["milliseconds_per_step"] = np.full(len(ends), np.nan)
    reports = run_folder.progress(unit)
    if reports is not None:
        carry, curves = run_folder.restore((carry, curves))
    saved = time.monotonic()
    for report_number in range(reports or 0, len(ends)):
        if report_number > 0:
            first, last = ends[report_number - 1 : report_number + 1]
            carry, curves["train_loss"][report_number], seconds = trainings.advance(carry, peaks, first, last)
            curves["milliseconds_per_step"][report_number] = 1000 * seconds / (last - first)
            validation = trainings.evaluate(carry, sweep.task.validation)
        for metric, values in validation.items():
            curves["validation"][metric][report_number] = values
        show_progress(number * sweep.steps + ends[report_number], np.fmin.reduce(validation["loss"]))
        if time.monotonic() - saved >= SECONDS_BETWEEN_CHECKPOINTS:
            run_folder.save(unit, report_number + 1, (carry, curves))
            saved = time.monotonic()
    test = trainings.evaluate(carry, sweep.task.test)

    records = [
        {
            "record": "training",
            "optimizer": name,
            "round": number,
            "learning_rate": float(peaks[replica]),
            "seed": int(sweep.seeds[replica]),
            "steps": ends,
            "train_loss": curves["train_loss"][:, replica].tolist(),
            "validation": {metric: values[:, replica].tolist() for metric, values in curves["validation"].items()},
            "test": {metric: values[replica].item() for metric, values in test.items()},
        }
        for replica in range(replicas)
    ]
    times = curves["milliseconds_per_step"]
    records.append(
        {
            "record": "round",
            "optimizer": name,
            "round": number,
            "state_bytes_per_parameter": trainings.state_bytes_per_parameter,
            "milliseconds_per_step": times[np.isfinite(times)].tolist(),
        }
    )
    return records


def short_digest(header: Record) -> str:
    """Returns a name for all that shapes a run's results, from its first record."""
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()[:8]


def refuse_another(there: Record, here: Record, folder: pathlib.Path) -> None:
    """Raises if a folder holds a run whose first record is another one.

    Raises:
        UserError: naming what differs.
    """
    for section in ("settings", "data", "versions", "hardware"):
        for key, value in here[section].items():
            if there[section].get(key) != value:
                raise UserError(
                    f"{folder} holds a run with {key} {there[section].get(key)!r}, not {value!r}; choose another --out"
                )
