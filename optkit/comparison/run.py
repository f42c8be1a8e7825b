"""Trains all optimizers of a comparison, or continues where an earlier run was stopped or ended."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import jax
import numpy as np
from rich.console import Console

from optkit.comparison import environment, fingerprint, results, search
from optkit.comparison.baselines import YARDSTICK
from optkit.comparison.errors import ComparisonError
from optkit.comparison.gradients import lacks
from optkit.comparison.progress import Progress
from optkit.comparison.records import COMPARISON, Record, with_null
from optkit.comparison.store import RunFolder
from optkit.comparison.task import SPLITS, Task, examples
from optkit.comparison.training import Sweep, Trainings
from optkit.method import Method

REPORTS = 40
# A checkpoint costs about as much as 100 steps of the smallest task.
SECONDS_BETWEEN_CHECKPOINTS = 2.0
# A run with other values of these is extended; with others of anything else, it is another run.
_EXTENDED = ("optimizers", "rounds", "seeds")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What to compare, and how.

    Attributes:
        task: What to train.
        methods: The optimizers, AdamW among them.
        steps: Length of every training.
        rates: How many choices of hyperparameters a round tries.
        rounds: How many rounds.
        seeds: With how many seeds each choice is trained.
        weight_decay: For all optimizers that have it.
        tune: The hyperparameters that are tuned in addition to the learning rate.
        workers: Over how many devices each batch is split.
        difference: The relative difference in test loss for which the needed seeds are told.
        folder: The run's folder; None for one in `runs` that is named after everything that shapes the results.
    """

    task: Task
    methods: Sequence[Method]
    steps: int
    rates: int = 6
    rounds: int = 3
    seeds: int = 3
    weight_decay: float = 0.0
    tune: tuple[str, ...] = ()
    workers: int = 1
    difference: float = 0.01
    folder: pathlib.Path | None = None


def run(plan: Plan, console: Console) -> pathlib.Path:
    """Compares optimizers.

    A folder that holds a run of the same task and settings is extended: what it lacks of the optimizers, rounds and
    seeds, its own and those of the plan, is trained, and nothing twice.

    Args:
        plan: What to compare.
        console: Where to show progress.

    Returns:
        The run's folder.

    Raises:
        ComparisonError: If something is asked that cannot be done.
    """
    task = plan.task
    if task.batch_size % plan.workers:
        raise ComparisonError(f"{plan.workers} workers do not divide the batch of {task.name}, {task.batch_size}")
    search.check_tune(plan.tune, plan.methods)
    for method in plan.methods:
        lacking = lacks(task, method, plan.workers)
        if lacking:
            raise ComparisonError(lacking)
    header = with_null(_header(plan))
    folder = plan.folder or pathlib.Path(
        "runs", f"compare-{quote(task.name, safe='')}-{short_digest(header, _EXTENDED)}"
    )
    with RunFolder.locked(folder, COMPARISON) as run_folder:
        methods = _extend(run_folder, header, plan)
        settings = run_folder.records[0]["settings"]
        _say_what_lacks(plan, console)
        console.print(f"{task.name} on {header['hardware']['devices']}; results go to {folder}")
        # All optimizers share the programs that make initial parameters and score.
        sweep = functools.cache(functools.partial(Sweep, task, steps=plan.steps, workers=plan.workers))
        with Progress(console, plan.steps * settings["rounds"]) as progress:
            for method in methods:
                with _naming(method.name):
                    _Optimizer(plan, method, run_folder, sweep).train(progress, console)
    return folder


@contextlib.contextmanager
def _naming(name):
    """Adds the name of the optimizer to an error."""
    try:
        yield
    except Exception as error:
        error.add_note(f"This happened while {name} was compared; what is finished is kept.")
        raise


def _header(plan):
    task = plan.task
    return {
        "record": "run",
        "settings": {
            "task": task.name,
            "optimizers": [method.name for method in plan.methods],
            "steps": plan.steps,
            "batch_size": task.batch_size,
            "rates": plan.rates,
            "rounds": plan.rounds,
            "seeds": list(range(plan.seeds)),
            "weight_decay": plan.weight_decay,
            "tune": list(plan.tune),
            "workers": plan.workers,
        },
        "data": {
            **task.facts,
            "size": {split: examples(getattr(task, split)) for split in SPLITS},
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(task.init, jax.random.key(0)))),
            "digest": fingerprint.of_data(task),
            "model": fingerprint.of_model(task),
        },
        "versions": environment.versions(),
        "hardware": environment.hardware(),
    }


def _extend(run_folder, header, plan):
    """Makes the folder's header one of its own and of the plan, and returns the methods to train, in its order."""
    if not run_folder.records:
        run_folder.clear()
        run_folder.append([header])
    there = run_folder.records[0]
    refuse_another(there, header, run_folder.path, extended=_EXTENDED)
    methods = {method.name: method for method in plan.methods}
    started = {record["optimizer"] for record in run_folder.records[1:] if record["record"] == "training"}
    settings = dict(there["settings"])
    # What has no results, because it was taken back or failed, is no part of the run.
    names = [name for name in settings["optimizers"] if name in started or name in methods]
    settings["optimizers"] = list(dict.fromkeys([*names, *methods]))
    settings["seeds"] = list(dict.fromkeys([*settings["seeds"], *header["settings"]["seeds"]]))
    settings["rounds"] = max(settings["rounds"], plan.rounds)
    lacking = [name for name in names if name not in methods and not _complete(run_folder.records, name, settings)]
    if lacking:
        raise ComparisonError(
            f"{run_folder.path} holds {', '.join(lacking)} with fewer rounds or seeds; name them too, so that they get "
            "as many as the others"
        )
    records = [{**there, "settings": settings}, *_own_programs(plan, run_folder, started)]
    records += [one for one in run_folder.records[1:] if one["record"] != "optimizer"]
    if records != run_folder.records:
        run_folder.replace(records)
    return [methods[name] for name in settings["optimizers"] if name in methods]


def _own_programs(plan, run_folder, started):
    """Returns the records of the user's own optimizers, and refuses those that are not what they were."""
    there = {record["optimizer"]: record for record in run_folder.records if record["record"] == "optimizer"}
    found = {name: record for name, record in there.items() if name in started}
    for method in plan.methods:
        if method.family:
            continue
        record = {"record": "optimizer", "optimizer": method.name, "summary": method.summary}
        record["program"] = fingerprint.of_optimizer(plan.task, method)
        if found.get(method.name, record)["program"] != record["program"]:
            raise ComparisonError(
                f"{run_folder.path} holds results of another {method.name}, which computed something else; give it "
                "another name, or choose another folder"
            )
        if there.get(method.name, record)["program"] != record["program"]:
            # Its first round was stopped before it ended.
            run_folder.clear()
        found[method.name] = record
    return list(found.values())


def _complete(records, name, settings):
    return all(not lacking_seeds(records, name, number, settings) for number in range(settings["rounds"]))


def _done_seeds(records, name, number):
    """The seeds with which an optimizer has been trained in a round."""
    return {
        seed
        for record in records
        if record["record"] == "round" and (record["optimizer"], record["round"]) == (name, number)
        for seed in record["seeds"]
    }


def lacking_seeds(records: Sequence[Record], name: str, number: int, settings: Mapping[str, Any]) -> list[int]:
    """Returns the seeds with which an optimizer has not been trained in a round."""
    done = _done_seeds(records, name, number)
    return [seed for seed in settings["seeds"] if seed not in done]


def _say_what_lacks(plan, console):
    lacking = [method.name for method in plan.methods if not search.takes(method, "weight_decay")]
    if plan.weight_decay and lacking:
        console.print(f"without weight decay, which they do not have: {', '.join(lacking)}")
    for name in plan.tune:
        lacking = [method.name for method in plan.methods if not search.tuned(method, [name], plan.weight_decay)]
        if lacking:
            console.print(f"{name} is not tuned where it is no hyperparameter: {', '.join(lacking)}")


class _Optimizer:
    """One optimizer of a run."""

    def __init__(self, plan, method, run_folder, sweep):
        self._plan = plan
        self._method = method
        self._folder = run_folder
        self._tuned = search.tuned(method, plan.tune, plan.weight_decay)
        self._settings = run_folder.records[0]["settings"]
        self._sweep = sweep
        self._trainings = {}

    def train(self, progress, console):
        """Trains what the folder lacks."""
        with progress.optimizer(self._method.name) as show_progress:
            for number in range(self._settings["rounds"]):
                lacking = lacking_seeds(self._folder.records, self._method.name, number, self._settings)
                if lacking:
                    self._train_round(number, lacking, show_progress)
                if self._method.name == YARDSTICK and number == 0:
                    self._tell_resolution(console)

    def _tell_resolution(self, console):
        losses = results.losses_of_best(self._own(rounds={0}))
        told = results.resolution(losses, self._plan.difference)
        if told:
            console.print(told)

    def _own(self, rounds=None, name=None):
        return [
            record
            for record in self._folder.records
            if record.get("optimizer") == (name or self._method.name)
            and record["record"] == "training"
            and (rounds is None or record["round"] in rounds)
        ]

    def _points(self, number):
        """What a round tries: what it tried with other seeds, or what comes next."""
        seeds = _done_seeds(self._folder.records, self._method.name, number)
        there = [record for record in self._own({number}) if record["seed"] in seeds]
        if there:
            return results.points(there, self._method)
        tried = results.tried(self._own(set(range(number))), self._method)
        return search.choose(self._method, self._tuned, self._center(), number, tried, self._plan.rates)

    def _center(self):
        if not math.isnan(self._method.grid):
            return self._method.grid
        losses = results.losses_by_rate(self._own(name=YARDSTICK))
        return min(losses, key=lambda rate: losses[rate])

    def _train_round(self, number, seeds, show_progress):
        """Trains each point of a round with each of some seeds."""
        points = self._points(number)
        values = {
            name: np.repeat(np.asarray([point[name] for point in points], np.float32), len(seeds)) for name in points[0]
        }
        ends = report_steps(self._plan.steps)
        trainings = self._program(tuple(seeds), len(points), ends)
        unit = f"{self._method.name}-{number}-{seeds[0]}"
        there = {(record["learning_rate"], *record["tuned"].values(), record["seed"]) for record in self._own({number})}
        parts = trainings.parts()
        for part, replicas in enumerate(parts):
            records = [self._record(number, values, trainings, replica) for replica in range(*replicas.indices(10**9))]
            keys = [(r["learning_rate"], *r["tuned"].values(), r["seed"]) for r in records]
            if there.issuperset(keys):
                continue

            def show(done, loss, part=part):
                whole = (number + part / len(parts)) * self._plan.steps + done / len(parts)
                show_progress(int(whole), loss)

            found = _train(trainings, values, replicas, ends, self._folder, f"{unit}-{part}", show)
            for i, record in enumerate(records):
                record |= {"steps": ends, "train_loss": found["train_loss"][:, i].tolist()}
                record["validation"] = {name: x[:, i].tolist() for name, x in found["validation"].items()}
                record["test"] = {name: float(np.mean(x[i])) for name, x in found["test"].items()}
            times = found["milliseconds_per_step"]
            times = (times[np.isfinite(times)] * len(parts)).tolist()
            if part == len(parts) - 1:
                records.append(
                    {
                        "record": "round",
                        "optimizer": self._method.name,
                        "round": number,
                        "seeds": list(seeds),
                        "state_bytes_per_parameter": trainings.state_bytes_per_parameter,
                        "milliseconds_per_step": times,
                    }
                )
            self._folder.save_examples(self._method.name, f"{number}-{seeds[0]}-{part}", keys, found["test"]["loss"])
            self._folder.append(records)
            self._folder.clear()

    def _record(self, number, values, trainings, replica):
        return {
            "record": "training",
            "optimizer": self._method.name,
            "round": number,
            "learning_rate": float(values[self._method.tuned][replica]),
            "tuned": {name: float(values[name][replica]) for name in self._tuned},
            "seed": int(trainings.sweep.seeds[replica]),
        }

    def _program(self, seeds, points, ends):
        if (seeds, points) not in self._trainings:
            sweep = self._sweep(seeds=seeds, points=points)
            trainings = Trainings(sweep, self._method, tuple(self._tuned), self._plan.weight_decay)
            trainings.fit(ends[1])
            self._trainings[seeds, points] = trainings
        return self._trainings[seeds, points]


def report_steps(steps: int) -> list[int]:
    """Returns the steps after which a training reports, evenly spaced; the first one is 0, the last one `steps`."""
    stride = math.ceil(steps / REPORTS)
    return [*range(0, steps, stride), steps]


def _train(
    trainings: Trainings,
    values: Mapping[str, np.ndarray],
    replicas: slice,
    ends: Sequence[int],
    folder: RunFolder,
    unit: str,
    show_progress: Callable[[int, float], None],
) -> dict[str, Any]:
    """Trains some replicas, and returns their curves, and their scores of each test example."""
    task, size = trainings.sweep.task, trainings.sweep.size

    def scores(carry):
        return {name: x.mean(axis=1) for name, x in trainings.evaluate(carry, task.validation).items()}

    carry = trainings.start(values, replicas)
    validation = scores(carry)
    empty = np.full((len(ends), size), np.nan, np.float32)
    curves = {"train_loss": empty.copy(), "validation": {metric: empty.copy() for metric in validation}}
    curves["milliseconds_per_step"] = np.full(len(ends), np.nan)
    reports = folder.progress(unit)
    if reports is not None:
        carry, curves = folder.restore((carry, curves))
    saved = time.monotonic()
    for number in range(reports or 0, len(ends)):
        if number > 0:
            first, last = ends[number - 1 : number + 1]
            carry, curves["train_loss"][number], seconds = trainings.advance(carry, values, replicas, first, last)
            curves["milliseconds_per_step"][number] = 1000 * seconds / (last - first)
            validation = scores(carry)
        for metric, found in validation.items():
            curves["validation"][metric][number] = found
        show_progress(ends[number], np.fmin.reduce(validation["loss"]))
        if time.monotonic() - saved >= SECONDS_BETWEEN_CHECKPOINTS:
            folder.save(unit, number + 1, (carry, curves))
            saved = time.monotonic()
    return {**curves, "test": trainings.evaluate(carry, task.test)}


def short_digest(header: Record, without: Sequence[str] = ()) -> str:
    """Returns a name for all that shapes a run's results, from its first record.

    Args:
        header: The record.
        without: Settings that do not count.
    """
    settings = {name: value for name, value in header["settings"].items() if name not in without}
    return hashlib.sha256(json.dumps({**header, "settings": settings}, sort_keys=True).encode()).hexdigest()[:8]


def refuse_another(there: Record, here: Record, folder: pathlib.Path, extended: Sequence[str] = ()) -> None:
    """Raises if a folder holds a run whose first record is another one.

    Args:
        there: The record in the folder.
        here: The record of this run.
        folder: The folder.
        extended: Settings that may differ.

    Raises:
        ComparisonError: Naming what differs.
    """
    for section in ("settings", "data", "versions", "hardware"):
        for key, value in here[section].items():
            if there[section].get(key) != value and key not in extended:
                raise ComparisonError(
                    f"{folder} holds a run with {key} {there[section].get(key)!r}, not {value!r}; choose another folder"
                )
