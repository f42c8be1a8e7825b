"""`python -m experiments workers`: methods whose workers talk to their neighbours, on data dealt unevenly."""

import dataclasses
import math
import pathlib
import time
from typing import Any

import numpy as np
from rich.console import Console

import experiments
from experiments import optimizers, pieces, tasks
from experiments.errors import UserError
from experiments.workers import choices, picture, simulation
from experiments.workers.records import RUN
from experiments.workers.simulation import Evaluation, Training
from optkit.comparison import entries, environment
from optkit.comparison import run as engine
from optkit.comparison.errors import one_line
from optkit.comparison.progress import Progress
from optkit.comparison.records import read_records
from optkit.comparison.run import refuse_another, report_steps, short_digest
from optkit.comparison.store import RunFolder
from optkit.comparison.training import arguments
from optkit.core.workers.on_workers import Backend

DEFAULT = ("gossip", "gradient_tracking", "exact_diffusion", "choco")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to train, on whom, and what happens to them.

    Attributes:
        task: name of the task.
        optimizers: names of decentralized methods.
        inner: name of the optimizer that wrappers wrap.
        learning_rate: constant, for all methods; None for each one's own.
        topology: who hears whom, `name` or `name:number`.
        workers: the number of workers.
        alpha: concentration of the Dirichlet distribution by which a class is dealt to workers; infinite for evenly.
        mixing: how values are mixed, `name` or `name:number`; None for each method's own.
        compressor: for methods that compress, `name` or `name:number`.
        gamma: how far workers move towards what they hear, for methods that have such a step.
        every: workers exchange in every so many steps only, for methods that have local steps.
        dropout: probability of a link to fail in a step.
        silent: how many workers are cut off for the middle third of the run.
        attack: what the attackers do, `name` or `name:number`; None where nobody attacks.
        byzantine: how many workers attack, if there is an attack.
        steps: length of every training; None for the task's own.
        seed: of the parameters and of all draws.
        backend: "vmap" for all workers on one device, "shard_map" for a device each.
        out: the run's folder; None for one named after everything that shapes the results.
    """

    task: str = "digits-mlp"
    optimizers: tuple[str, ...] = DEFAULT
    inner: str = "sgd"
    learning_rate: float | None = None
    topology: str = "ring"
    workers: int = 8
    alpha: float = 0.1
    mixing: str | None = None
    compressor: str = "top_k:0.1"
    gamma: float = 0.3
    every: int = 1
    dropout: float = 0.0
    silent: int = 0
    attack: str | None = None
    byzantine: int = 2
    steps: int | None = None
    seed: int = 0
    backend: Backend = "vmap"
    out: pathlib.Path | None = None


def run(options: Options, console: Console) -> None:
    """Trains the methods one after another, or continues where an earlier run of the same command was stopped.

    Args:
        options: what to train.
        console: where to show it.

    Raises:
        UserError: if something is asked that cannot be done.
    """
    found = entries.look_up(dict.fromkeys(options.optimizers), optimizers.decentralized())
    methods = {method.name: method for method in found}
    network = _network(options)
    built = {name: _build(options, network, name, method) for name, method in methods.items()}
    header = {
        "record": "workers",
        "settings": {
            "command": "workers",
            **{name: value for name, value in dataclasses.asdict(options).items() if name != "out"},
            "optimizers": list(methods),
            "learning_rate": {name: _learning_rate(options, method) for name, method in methods.items()},
            "alpha": None if math.isinf(options.alpha) else options.alpha,
            "byzantine": network.byzantine,
            "steps": network.steps,
            "batch_size": network.rows.shape[-1],
        },
        "data": dict(network.task.facts),
        "versions": environment.versions(experiments),
        "hardware": environment.hardware(),
    }
    folder = options.out or pathlib.Path("runs", f"workers-{options.task}-{short_digest(header)}")
    with RunFolder.locked(folder, RUN) as run_folder:
        if not run_folder.records:
            run_folder.clear()
            run_folder.append([header])
        refuse_another(run_folder.records[0], header, folder)
        console.print(f"{options.task} on {header['hardware']['devices']}; results go to {folder}")
        evaluation = Evaluation(network)
        with Progress(console, network.steps) as progress:
            for name, (tx, sent) in built.items():
                if any(record.get("optimizer") == name for record in run_folder.records):
                    continue
                with progress.optimizer(name) as show_progress:
                    record = _train(Training(network, tx), evaluation, network, name, run_folder, show_progress)
                run_folder.append([record | {"sent": sent}])
                run_folder.clear()
        show(folder, console)


def show(folder: pathlib.Path, console: Console) -> None:
    """Prints a run's table and draws its figure.

    Args:
        folder: the run's folder.
        console: where the table goes.

    Raises:
        UserError: if there are no results of such a run.
    """
    records = read_records(folder, RUN)
    if not records:
        raise UserError(f"there is no results.jsonl in {folder}")
    console.print(picture.table(records))
    file = folder / "figure.png"
    picture.draw(records, file)
    console.print(f"figure: {file}")


def _network(options):
    task = tasks.load(options.task)
    return simulation.deal(
        task,
        workers=options.workers,
        steps=options.steps or task.steps,
        alpha=options.alpha,
        dropout=options.dropout,
        silent=options.silent,
        attack=options.attack,
        byzantine=options.byzantine if options.attack else 0,
        seed=options.seed,
        backend=options.backend,
    )


def _learning_rate(options, method):
    if options.learning_rate is not None:
        return options.learning_rate
    return (method if method.kind == "optimizer" else optimizers.find_inner(options.inner)).grid


def _build(options, network, name, method) -> tuple[Any, dict[str, int]]:
    """Makes a method, under the attack, and counts what it sends without it, in bytes a step."""
    taken = optimizers.takes(method)
    if "mixing" not in taken and (options.mixing is not None or network.attack not in (None, pieces.LABEL_FLIP)):
        raise UserError(f"{name} has an exchange of its own, on which --mixing and --attack have no effect")
    if options.every > 1 and "every" not in taken:
        names = ", ".join(
            known for known, other in optimizers.decentralized().items() if "every" in optimizers.takes(other)
        )
        raise UserError(f"{name} exchanges in every step: --every {options.every} is for {names}")
    rate = _learning_rate(options, method)
    inner = optimizers.find_inner(options.inner)
    made = choices.Pieces(
        inner=inner.optimizer_factory(**arguments(network.task, inner, 0.0, {inner.tuned: rate}, network.seed)),
        learning_rate=rate,
        topology=pieces.make("topology", options.topology, pieces.TOPOLOGIES, network.workers),
        mixing=pieces.make("mixing", options.mixing or choices.mixing_of(method), pieces.MIXINGS, network.byzantine),
        compressor=pieces.make("compressor", options.compressor, pieces.COMPRESSORS),
        gamma=options.gamma,
        every=options.every,
        byzantine=network.byzantine,
    )
    try:
        sent = simulation.bytes_sent(network, choices.build(method, made), every=options.every)
    except ValueError as error:
        # What methods refuse is the user's choice of pieces: they say so when they are built or traced.
        raise UserError(f"{name}: {one_line(error)}") from error
    return choices.build(method, made._replace(mixing=network.attacked(made.mixing))), sent


def _train(training, evaluation, network, name, run_folder, show_progress):
    """Trains one method and returns the record of it."""
    ends, task = report_steps(network.steps), network.task
    carry = training.start()
    scores = evaluation(carry[0], task.validation)
    empty = np.full(len(ends), np.nan, np.float32)
    curves = {
        "train_loss": empty.copy(),
        "validation": {metric: empty.copy() for metric in scores["mean"]},
        "worst": empty.copy(),
        "consensus": empty.copy(),
        "milliseconds_per_step": empty.copy(),
    }
    reports = run_folder.progress(name)
    if reports is not None:
        carry, curves = run_folder.restore((carry, curves))
    saved = time.monotonic()
    for number in range(reports or 0, len(ends)):
        if number > 0:
            first, last = ends[number - 1 : number + 1]
            carry, curves["train_loss"][number], seconds = training.advance(carry, first, last)
            curves["milliseconds_per_step"][number] = 1000 * seconds / (last - first)
            scores = evaluation(carry[0], task.validation)
        for metric, value in scores["mean"].items():
            curves["validation"][metric][number] = value
        curves["worst"][number], curves["consensus"][number] = scores["worst"], scores["consensus"]
        show_progress(ends[number], float(scores["mean"]["loss"]))
        if time.monotonic() - saved >= engine.SECONDS_BETWEEN_CHECKPOINTS:
            run_folder.save(name, number + 1, (carry, curves))
            saved = time.monotonic()
    test = evaluation(carry[0], task.test)["mean"]
    times = curves.pop("milliseconds_per_step")
    return {
        "record": "training",
        "optimizer": name,
        "steps": ends,
        "train_loss": curves["train_loss"].tolist(),
        "validation": {metric: values.tolist() for metric, values in curves["validation"].items()},
        "worst": curves["worst"].tolist(),
        "consensus": curves["consensus"].tolist(),
        "test": {metric: float(value) for metric, value in test.items()},
        "milliseconds_per_step": times[np.isfinite(times)].tolist(),
    }
