"""`python -m experiments compare`: compares optimizers under equal tuning."""

import dataclasses
import pathlib
from collections.abc import Sequence

from rich.console import Console

from experiments import optimizers, tasks
from optkit.comparison import Comparison, entries, gradients
from optkit.comparison import run as engine
from optkit.method import Method


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to compare.

    Attributes:
        task: name of the task.
        optimizers: names of optimizers, variants as `name:variant`, and functions of a learning rate, as
            `module:function`.
        steps: length of every training; None for the task's own.
        rates: how many choices of hyperparameters a round tries.
        rounds: how many rounds.
        seeds: with how many seeds each is trained.
        weight_decay: for all optimizers that have it.
        all: whether to compare every method of the catalog that the task suits, in addition to `optimizers`.
        tune: hyperparameters to tune in addition to the learning rate.
        workers: over how many devices each batch is split.
        difference: the relative difference for which the needed seeds are told.
        out: the run's folder; None for one named after everything that shapes the results.
    """

    task: str = "digits-mlp"
    optimizers: tuple[str, ...] = optimizers.DEFAULT
    steps: int | None = None
    rates: int = 6
    rounds: int = 3
    seeds: int = 3
    weight_decay: float = 0.0
    all: bool = False
    tune: tuple[str, ...] = ()
    workers: int = 1
    difference: float = 0.01
    out: pathlib.Path | None = None


def run(options: Options, console: Console, methods: Sequence[Method] | None = None) -> None:
    """Compares optimizers, or continues where an earlier run of the same command was stopped.

    Args:
        options: what to compare.
        console: where to show it.
        methods: optimizers in place of those that `options` names; AdamW is always among them.

    Raises:
        ComparisonError: if something is asked that cannot be done.
    """
    task = tasks.load(options.task)
    if methods is None:
        methods = optimizers.find(options.optimizers)
    if options.all:
        suited = [
            method for method in optimizers.everything() if gradients.lacks(task, method, options.workers) is None
        ]
        methods = list({method.name: method for method in (*methods, *suited)}.values())
    plan = engine.Plan(
        task=task,
        methods=entries.find(methods),
        steps=options.steps or task.steps,
        rates=options.rates,
        rounds=options.rounds,
        seeds=options.seeds,
        weight_decay=options.weight_decay,
        tune=options.tune,
        workers=options.workers,
        difference=options.difference,
        folder=options.out,
    )
    show(engine.run(plan, console), console)


def show(folder: pathlib.Path, console: Console) -> None:
    """Prints a run's table, and writes its report.

    Args:
        folder: the run's folder.
        console: where to show the table.

    Raises:
        ComparisonError: if there are no results.
    """
    result = Comparison.read(folder)
    console.print(result.table())
    page = folder / "report.html"
    result.save(page)
    console.print(f"report: {page}")
    console.print(f"figure: {page.with_suffix('.png')}")
