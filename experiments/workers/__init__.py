"""`python -m experiments workers`: methods whose workers talk to each other, on data dealt unevenly."""

import dataclasses
import math
import pathlib
import time

import numpy as np
from rich.console import Console

import experiments
from experiments import links, optimizers, pieces, tasks
from experiments.errors import UserError
from experiments.workers import choices, joined, picture, report, simulation
from experiments.workers.records import RUN
from experiments.workers.simulation import Evaluation, Training
from experiments.workers.times import SIZES, Clock
from experiments.workers.traffic import Traffic
from optkit.comparison import entries, environment
from optkit.comparison import run as engine
from optkit.comparison.errors import one_line
from optkit.comparison.progress import Progress
from optkit.comparison.records import read_records
from optkit.comparison.run import refuse_another, report_steps, short_digest
from optkit.comparison.store import write
from optkit.comparison.training import arguments
from optkit.core.workers.on_workers import Backend

DEFAULT = ("mean", "gossip", "gradient_tracking", "exact_diffusion", "choco", "compressed_mean")
# For methods that must have one.
COMPRESSOR = "top_k:0.1"
# What is shown, not what is trained: these may change from one look at a run to the next.
_SHOWN = ("bandwidth", "latency", "step_milliseconds", "out")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to train, on whom, what happens to them, and on what network the time is counted.

    Attributes:
        task: name of the task.
        optimizers: names of methods that many workers can train with.
        inner: name of the optimizer that wrappers wrap, and that takes means of gradients.
        learning_rate: constant, for all methods; None for each one's own.
        topology: who hears whom, `name` or `name:number`.
        workers: the number of workers.
        alpha: concentration of the Dirichlet distribution by which a class is dealt to workers; infinite for evenly.
        mixing: how values are mixed, `name` or `name:number`; None for each method's own.
        compressor: for methods that compress, and, if it is given, for the means of methods that take any mean, `name`
            or `name:number`; None for `COMPRESSOR` where there must be one.
        feedback: for compressed means, `name` or `name:number`.
        gamma: how far workers move towards what they hear, for methods that have such a step.
        every: workers exchange in every so many steps only, for methods that have local steps; None for each one's own.
        dropout: probability of a link to fail in a step, or of a worker to be missing in a mean.
        silent: how many workers are cut off for the middle third of the run.
        attack: what the attackers do, `name` or `name:number`; None where nobody attacks.
        byzantine: how many workers attack, if there is an attack.
        steps: length of every training; None for the task's own.
        seed: of the parameters and of all draws.
        backend: "vmap" for all workers on one device, "shard_map" for a device each; None for "vmap", but "shard_map"
            on several processes.
        processes: over how many processes of this machine workers are spread.
        bandwidth: of the networks for which times are told, in gigabits a second.
        latency: of these, in milliseconds.
        step_milliseconds: how long a worker computes in a step; None for what was measured.
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
    compressor: str | None = None
    feedback: str = "ef14"
    gamma: float = 0.3
    every: int | None = None
    dropout: float = 0.0
    silent: int = 0
    attack: str | None = None
    byzantine: int = 2
    steps: int | None = None
    seed: int = 0
    backend: Backend | None = None
    processes: int = 1
    bandwidth: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0, 400.0)
    latency: float = 1.0
    step_milliseconds: float | None = None
    out: pathlib.Path | None = None


def run(options: Options, console: Console) -> None:
    """Trains the methods one after another, or continues where an earlier run of the same command was stopped.

    Args:
        options: what to train.
        console: where to show it.

    Raises:
        UserError: if something is asked that cannot be done.
    """
    found = entries.look_up(dict.fromkeys(options.optimizers), optimizers.between_workers())
    methods = {method.name: method for method in found}
    network = _network(options)
    _check(options, network, methods)
    trainings = {name: _prepare(options, network, method) for name, method in methods.items()}
    header = _header(options, network, methods)
    folder = options.out or pathlib.Path("runs", f"workers-{options.task}-{short_digest(header)}")
    with joined.run_folder(folder, RUN) as run_folder:
        if not run_folder.records:
            run_folder.clear()
            run_folder.append([header])
        refuse_another(run_folder.records[0], header, folder)
        console.print(f"{options.task} on {header['hardware']['devices']}; results go to {folder}")
        evaluation = Evaluation(network)
        with Progress(console, network.steps) as progress:
            for name, training in trainings.items():
                if any(record.get("optimizer") == name for record in run_folder.records):
                    continue
                with progress.optimizer(name) as show_progress:
                    record = _train(training, evaluation, network, name, run_folder, show_progress)
                run_folder.append([record])
                run_folder.clear()
        if joined.is_first():
            show(folder, console, options)


def show(folder: pathlib.Path, console: Console, options: Options) -> None:
    """Prints a run's tables, and writes its report and figure.

    Args:
        folder: the run's folder.
        console: where the tables go.
        options: the networks for which times are told.

    Raises:
        UserError: if there are no results of such a run.
    """
    records = read_records(folder, RUN)
    if not records:
        raise UserError(f"there is no results.jsonl in {folder}")
    clock = Clock(
        [links.Link(1e9 * bandwidth, options.latency / 1e3) for bandwidth in options.bandwidth],
        None if options.step_milliseconds is None else options.step_milliseconds / 1e3,
    )
    results, durations = report.results(records), report.durations(records, clock)
    for sheet in filter(None, (results, durations)):
        console.print(sheet.shown())
    page, file = folder / "report.md", folder / "figure.png"
    more = report.durations(records, clock, SIZES)
    write(page, report.page(records, list(filter(None, (results, more)))))
    picture.draw(records, clock, file)
    console.print(f"report: {page}")
    console.print(f"figure: {file}")


def _header(options, network, methods):
    own = {"learning_rate": {name: _learning_rate(options, method) for name, method in methods.items()}}
    own |= {"alpha": None if math.isinf(options.alpha) else options.alpha, "byzantine": network.byzantine}
    own |= {"steps": network.steps, "batch_size": network.rows.shape[-1], "backend": network.backend}
    settings = {name: value for name, value in dataclasses.asdict(options).items() if name not in _SHOWN}
    return {
        "record": "workers",
        "settings": {"command": "workers", **settings, "optimizers": list(methods), **own},
        "data": dict(network.task.facts),
        "versions": environment.versions(experiments),
        "hardware": environment.hardware(),
    }


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
        backend=options.backend or ("vmap" if options.processes == 1 else "shard_map"),
    )


def _learning_rate(options, method):
    if options.learning_rate is not None:
        return options.learning_rate
    return (method if method.kind == "optimizer" else optimizers.find_inner(options.inner)).grid


def _check(options, network, methods):
    """Raises if an option has no effect on a method that it must reach, or on none of them.

    Raises:
        UserError: if so.
    """
    attacked = network.attack not in (None, pieces.LABEL_FLIP)
    for name, method in methods.items():
        has_own_exchange = "topology" in optimizers.takes(method) and "mixing" not in optimizers.takes(method)
        if has_own_exchange and (options.mixing is not None or attacked):
            raise UserError(f"{name} has an exchange of its own, on which --mixing and --attack have no effect")
    taken = set().union(*map(optimizers.takes, methods.values()))
    given = {
        "mixing": options.mixing,
        "every": None if options.every == 1 else options.every,
        "compressor": options.compressor,
    }
    for option, value in given.items():
        if value is not None and option not in taken and not (option == "compressor" and "mean" in taken):
            known = optimizers.between_workers().items()
            names = ", ".join(name for name, method in known if option in optimizers.takes(method))
            raise UserError(f"--{option} {value} has no effect on {', '.join(methods)}: it is for {names}")


def _prepare(options, network, method) -> Training:
    """Makes a method, and its training under the attack."""
    rate, inner = _learning_rate(options, method), optimizers.find_inner(options.inner)
    compressor = pieces.make("compressor", options.compressor or COMPRESSOR, pieces.COMPRESSORS)
    feedback = pieces.make("feedback", options.feedback, pieces.FEEDBACK)
    mixing = options.mixing or choices.mixing_of(method)
    try:
        made = choices.Pieces(
            inner=inner.optimizer_factory(**arguments(network.task, inner, 0.0, {inner.tuned: rate}, network.seed)),
            learning_rate=rate,
            topology=pieces.make("topology", options.topology, pieces.TOPOLOGIES, network.workers),
            mixing=pieces.make("mixing", mixing, pieces.MIXINGS, network.byzantine),
            compressor=compressor,
            feedback=feedback,
            mean=None if options.compressor is None else choices.mean(compressor, feedback),
            gamma=options.gamma,
            every=options.every,
            byzantine=network.byzantine,
            key=network.seed,
        )
        attacked = None
        if "mixing" in optimizers.takes(method):
            attacked = choices.build(method, made._replace(mixing=network.attacked(made.mixing)))
        training = Training(network, method, choices.build(method, made), attacked)
        training.cost  # noqa: B018  (compiled before anything is trained, so that what is refused is so at once)
    except (ValueError, TypeError) as error:
        # What methods refuse is the user's choice of pieces: they say so when they are built or traced.
        raise UserError(f"{method.name}: {one_line(error)}") from error
    return training


def _train(training, evaluation, network, name, run_folder, show_progress):
    """Trains one method and returns the record of it."""
    ends, task = report_steps(network.steps), network.task
    carry = training.start()
    scores = evaluation(carry[0], carry[0], task.validation)
    empty = np.full(len(ends), np.nan)
    curves = {
        **{curve: empty.copy() for curve in ("train_loss", "worst", "consensus", "share", "exchanges")},
        "validation": {metric: empty.copy() for metric in scores["mean"]},
        "milliseconds_per_step": empty.copy(),
    }
    reports = run_folder.progress(name)
    if reports is not None:
        carry, curves = run_folder.restore((carry, curves))
    saved = time.monotonic()
    for number in range(reports or 0, len(ends)):
        sent = Traffic(0.0, 0.0)
        if number > 0:
            first, last = ends[number - 1 : number + 1]
            carry, curves["train_loss"][number], sent, seconds = training.advance(carry, first, last)
            curves["milliseconds_per_step"][number] = 1000 * seconds / (last - first)
            scores = evaluation(carry[0], training.reported(carry), task.validation)
        for metric, value in scores["mean"].items():
            curves["validation"][metric][number] = value
        curves["worst"][number], curves["consensus"][number] = scores["worst"], scores["consensus"]
        curves["share"][number], curves["exchanges"][number] = sent
        show_progress(ends[number], float(scores["mean"]["loss"]))
        if joined.agreed(time.monotonic() - saved >= engine.SECONDS_BETWEEN_CHECKPOINTS):
            run_folder.save(name, number + 1, joined.gathered((carry, curves)))
            saved = time.monotonic()
    test = evaluation(carry[0], training.reported(carry), task.test)["mean"]
    sent = Traffic(np.cumsum(curves["share"]), np.cumsum(curves["exchanges"]))
    by_kind = sent.bytes_sent(training.cost, np.array(ends))
    milliseconds = curves["milliseconds_per_step"]
    return {
        "record": "training",
        "optimizer": name,
        "steps": ends,
        **{curve: curves[curve].tolist() for curve in ("train_loss", "worst", "consensus")},
        "validation": {metric: values.tolist() for metric, values in curves["validation"].items()},
        "test": {metric: float(value) for metric, value in test.items()},
        "sent": {kind: curve.tolist() for kind, curve in by_kind.items()},
        "exchanges": sent.exchanges.tolist(),
        "milliseconds_per_step": milliseconds[np.isfinite(milliseconds)].tolist(),
    }
