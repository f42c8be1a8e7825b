"""The command line: compare optimizers, simulate workers, check papers' claims, and measure costs."""

if __name__ == "__main__":
    # Before all other imports, which take seconds.
    from experiments import interruption

    interruption.watch()

import argparse
import dataclasses
import errno
import importlib
import math
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from experiments import claims, pieces, tasks
from experiments.benchmarks import memory
from experiments.benchmarks.transformer import DTYPES, SIZES
from experiments.errors import UserError, check_name


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # What a terminal would obey is written out, as Python does.
        self.exit(2, f"error: {message if message.isprintable() else ascii(message)[1:-1]}\n")


def _checked(check: Callable[[str], Any]) -> Callable[[str], str]:
    """Makes the type of an argument that returns a text if `check` accepts it; `check` raises `UserError` otherwise."""

    def convert(text):
        try:
            check(text)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        return text

    return convert


def _one_of(kind, names):
    return _checked(lambda text: check_name(kind, text, names))


def _piece(kind, table):
    return _checked(lambda text: pieces.check(kind, text, table))


def _folder(text):
    """Returns a folder that exists and can be written, or that can be made."""
    folder = pathlib.Path(text)
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not os.path.isdir(there):  # noqa: PTH112  (`is_dir` raises where it may not look)
        raise argparse.ArgumentTypeError(f"cannot write to {folder}: {there} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"cannot write to {folder}: no permission to write to {there}")
    return folder


def _run(text):
    """Returns the folder of a run that can be drawn."""
    if not os.path.lexists(pathlib.Path(text, "results.jsonl")):
        raise argparse.ArgumentTypeError(f"there is no results.jsonl in {text}")
    return _folder(text)


def _integer(text):
    try:
        return int(text)
    except ValueError:
        return -1


def _positive(text):
    number = _integer(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text}")
    return number


def _count(text):
    number = _integer(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 0, got {text}")
    return number


def _at_least_two(text):
    if _positive(text) < 2:
        raise argparse.ArgumentTypeError(f"must be at least 2, got {text}")
    return int(text)


def _names(text):
    names = tuple(name for name in text.split(",") if name)
    if not names:
        raise argparse.ArgumentTypeError(f"must be names separated by commas, got {text!r}")
    return names


def _numbers(text):
    return tuple(float(_share(number)) for number in _names(text))


def _not_negative(text):
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, got {text}")
    return number


def _share(text):
    if not _not_negative(text):
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text}")
    return float(text)


def _concentration(text):
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number > 0:
        raise argparse.ArgumentTypeError(f"must be a positive number or inf, got {text}")
    return number


def _probability(text):
    if _not_negative(text) > 1:
        raise argparse.ArgumentTypeError(f"must lie in [0, 1], got {text}")
    return float(text)


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = _Parser(prog="python -m experiments", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    _add_compare(commands)
    _add_bench(commands)
    _add_workers(commands)
    _add_claims(commands)
    return parser


def _add_compare(commands):
    compare = commands.add_parser("compare", help="compare optimizers under equal tuning")
    compare.add_argument(
        "--task",
        type=_checked(tasks.check),
        default="digits-mlp",
        help=f"what to train: {', '.join(tasks.names())}; a Python file with a function `task`, which returns an"
        " optkit.comparison.Task; or module:function (default: digits-mlp)",
    )
    compare.add_argument(
        "--optimizers",
        type=_names,
        help="names separated by commas; a variant is written name:variant, a function of your own module:function;"
        " adamw is always added",
    )
    compare.add_argument(
        "--all", action="store_true", help="compare every method of the catalog that suits the task, and Optax's"
    )
    compare.add_argument("--steps", type=_positive, help="steps of each training (default: the task's)")
    compare.add_argument("--rates", type=_at_least_two, default=6, help="learning rates per round (default: 6)")
    compare.add_argument("--rounds", type=_positive, default=3, help="rounds of search (default: 3)")
    compare.add_argument("--seeds", type=_positive, default=3, help="trainings per learning rate (default: 3)")
    compare.add_argument(
        "--weight-decay", type=_not_negative, default=0.0, help="weight decay of all optimizers with one (default: 0)"
    )
    compare.add_argument("--tune", type=_names, help="up to two hyperparameters to tune too, separated by commas")
    compare.add_argument(
        "--difference",
        type=_share,
        default=0.01,
        help="tell how many seeds a difference of this share of the loss needs (default: 0.01)",
    )
    compare.add_argument("--workers", type=_positive, default=1, help="devices that share a batch (default: 1)")
    compare.add_argument("--out", type=_folder, help="folder of the run (default: named by these options)")
    compare.add_argument("--plot-only", type=_run, metavar="RUN", help="only draw the run in this folder")
    compare.set_defaults(run=_compare)


def _add_bench(commands):
    bench = commands.add_parser("bench", help="measure time, memory and communication")
    benches = bench.add_subparsers(dest="what", required=True, parser_class=_Parser)
    sweep = benches.add_parser("sweep", help="compare a grid of trainings with a plain loop of one training")
    sweep.set_defaults(run=_sweep)
    update = benches.add_parser("update", help="compare one update of each method with that of Optax's nearest one")
    size = _one_of("size", (*SIZES, "all"))
    update.add_argument("--size", type=size, default="all", help=f"parameters: {', '.join(SIZES)} (default: all)")
    update.add_argument("--optimizers", type=_names, help="names separated by commas (default: all but variants)")
    update.add_argument(
        "--dtype",
        type=_one_of("dtype", DTYPES),
        default="float32",
        help="dtype of parameters and gradients (default: float32)",
    )
    update.add_argument("--rounds", type=_positive, default=20, help="measurements per method (default: 20)")
    update.add_argument("--out", type=_folder, help="folder of the results (default: experiments/results)")
    update.set_defaults(run=_update)
    peers = benches.add_parser("peers", help="compare one update of each method with that of PyTorch's packages")
    peers.add_argument("--optimizers", type=_names, help="names separated by commas (default: all pairs)")
    peers.add_argument("--rounds", type=_positive, default=20, help="measurements per pair (default: 20)")
    peers.add_argument("--out", type=_folder, help="folder of the results (default: experiments/results)")
    peers.set_defaults(run=_peers)
    for name, module, workers, text in (
        ("sharded", "sharded", 8, "measure what optimizers of matrices send between eight devices"),
        ("compile", "compile_time", 1, "measure how compile time grows with the layers of a transformer"),
        ("gossip", "gossip", 8, "compare a round of mixing with the messages that it sends"),
        ("communication", "communication", 8, "measure compressed means, and from which network on they pay"),
    ):
        other = benches.add_parser(name, help=text)
        other.add_argument("--out", type=_folder, help="folder of the results (default: experiments/results)")
        other.set_defaults(run=_bench, module=module, workers=workers)


def _add_workers(commands):
    workers = commands.add_parser("workers", help="train on workers that exchange messages")
    workers.add_argument(
        "--task",
        type=_one_of("task", tasks.names()),
        help="what to train: the name of a file in experiments/tasks (default: digits-mlp)",
    )
    workers.add_argument(
        "--optimizers",
        type=_names,
        help="methods that many workers train with, separated by commas: mean, and all of the catalog",
    )
    workers.add_argument("--inner", help="the optimizer that methods wrap, or that takes their mean (default: sgd)")
    workers.add_argument("--learning-rate", type=_not_negative, help="constant rate (default: each method's own)")
    workers.add_argument("--steps", type=_positive, help="steps of each training (default: the task's)")
    workers.add_argument("--seed", type=_count, help="seed of parameters and random draws (default: 0)")
    workers.add_argument("--workers", type=_positive, default=8, help="number of workers (default: 8)")
    workers.add_argument(
        "--alpha", type=_concentration, help="how evenly classes are split among workers, inf: evenly (default: 0.1)"
    )
    workers.add_argument(
        "--backend", choices=("vmap", "shard_map"), help="one device for all, or one per worker (default: vmap)"
    )
    workers.add_argument(
        "--processes", type=_positive, help="processes of this machine over which workers are spread (default: 1)"
    )
    _add_exchange(workers)
    _add_network(workers)
    workers.add_argument("--out", type=_folder, help="folder of the run (default: named by these options)")
    workers.add_argument("--plot-only", type=_run, metavar="RUN", help="only show and draw the run in this folder")
    workers.set_defaults(run=_workers)


def _add_exchange(workers):
    workers.add_argument(
        "--topology",
        type=_piece("topology", pieces.TOPOLOGIES),
        help="which workers exchange messages, such as erdos_renyi:0.4 (default: ring)",
    )
    workers.add_argument(
        "--mixing",
        type=_piece("mixing", pieces.MIXINGS),
        help="how workers mix their values, such as trimmed_mean (default: each method's own)",
    )
    workers.add_argument(
        "--compressor",
        type=_piece("compressor", pieces.COMPRESSORS),
        help="compressor of messages, also in the means of methods that take any mean (default: top_k:0.1, and none)",
    )
    workers.add_argument(
        "--feedback",
        type=_piece("feedback", pieces.FEEDBACK),
        help="what remembers what compressed means left out, such as ef21 or none (default: ef14)",
    )
    workers.add_argument("--gamma", type=_not_negative, help="mixing step of compressed gossip (default: 0.3)")
    workers.add_argument("--every", type=_positive, help="steps from one exchange to the next (default: the method's)")
    workers.add_argument(
        "--dropout", type=_probability, help="share of links, or of workers in means, that fail per step (default: 0)"
    )
    workers.add_argument("--silent", type=_count, help="workers cut off for a third of the run (default: 0)")
    workers.add_argument(
        "--attack",
        type=_piece("attack", {**pieces.ATTACKS, pieces.LABEL_FLIP: lambda: None}),
        help="what attackers do, such as sign_flip (default: no attack)",
    )
    workers.add_argument("--byzantine", type=_positive, help="number of attackers (default: 2)")


def _add_network(workers):
    workers.add_argument(
        "--bandwidth",
        type=_numbers,
        help="gigabits a second of the networks for which times are told (default: 0.1,1,10,100,400)",
    )
    workers.add_argument("--latency", type=_not_negative, help="milliseconds an exchange takes at least (default: 1)")
    workers.add_argument(
        "--step-milliseconds", type=_share, help="milliseconds a worker computes in a step (default: measured)"
    )


def _add_claims(commands):
    papers = commands.add_parser("claims", help="measure at toy scale what papers claim")
    papers.add_argument(
        "names",
        nargs="*",
        type=_checked(claims.check),
        metavar="NAME",
        help="only these claims, named as in claims.json, or those about methods of these families (default: all)",
    )
    papers.add_argument("--out", type=_folder, help="folder of the results (default: experiments/results)")
    papers.set_defaults(run=_claims)


def start_jax(workers: int) -> None:
    """Sets what JAX reads when it starts.

    Args:
        workers: The least number of devices that are needed.
    """
    # So that a run that was killed ends bit for bit the same on a GPU too.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()
    import jax

    # A device for each core, over which the trainings are spread, or for each worker.
    jax.config.update("jax_num_cpu_devices", max(workers, os.cpu_count() or 1))


def share_out_threads() -> None:
    """Sets how many threads XLA and LAPACK start, unless the user has, for trainings that have one core each.

    Before jaxlib 0.11.1, LAPACK calls for stacks of matrices wait for threads of the same pool in which they run. By
    default the pool has one thread per core; if each of them is in such a call, all wait forever. OpenBLAS would start
    one thread per core in every call, and these get in each other's way: for matrices of 64 x 64 it is a hundred times
    slower.
    """
    os.environ.setdefault("NPROC", str(8 * (os.cpu_count() or 1)))
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def execute(options: argparse.Namespace) -> int:
    """Runs a command.

    Args:
        options: The parsed command line.

    Returns:
        The exit code: 0, or 2 for an error that the user can correct.
    """
    from optkit.comparison import ComparisonError
    from optkit.comparison.terminal import Terminal, visible

    try:
        options.run(options, Terminal())
    except (UserError, ComparisonError) as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        return 2
    return 0


# Each command looks up its optimizers, which needs `import optkit` only, before it imports what takes longer.


def _compare(options, console):
    from experiments import optimizers

    optimizers.find(options.optimizers or ())
    _require_matplotlib()
    from experiments import compare

    if options.plot_only:
        compare.show(options.plot_only, console)
    else:
        compare.run(_given(options, compare.Options), console)


def _workers(options, console):
    processes = options.processes or 1
    if options.workers % processes:
        raise UserError(f"--processes must divide the {options.workers} workers, got {processes}")
    if processes > 1 and options.backend == "vmap":
        raise UserError(f"--backend vmap runs all workers in one process, not in {processes}")
    from experiments import optimizers
    from optkit.comparison import entries

    entries.look_up(options.optimizers or (), optimizers.between_workers())
    if options.inner:
        optimizers.find_inner(options.inner)
    _require_matplotlib()
    from experiments import workers
    from experiments.workers import processes as joined

    given = _given(options, workers.Options)
    if options.plot_only:
        workers.show(options.plot_only, console, given)
    elif given.processes > 1:
        joined.run(given)
    else:
        workers.run(given, console)


def _claims(options, console):
    _require_matplotlib()
    from experiments import evidence

    evidence.run(options.names, options.out or evidence.RESULTS, console)


def _sweep(options, console):
    del options
    _require_matplotlib()
    from experiments.benchmarks import sweep

    sweep.run(console)


def _update(options, console):
    from experiments.benchmarks import nearest

    nearest.find(options.optimizers)
    from experiments.benchmarks import update

    update.run(_given(options, update.Options), console)


def _peers(options, console):
    from experiments.benchmarks import peer_pairs

    peer_pairs.find(options.optimizers)
    peer_pairs.require_packages()
    from experiments.benchmarks import peers

    peers.run(_given(options, peers.Options), console)


def _bench(options, console):
    module = importlib.import_module(f"experiments.benchmarks.{options.module}")
    module.run(_given(options, module.Options), console)


def _require_matplotlib():
    """Imports Matplotlib, which reads the user's settings when it is imported."""
    try:
        importlib.import_module("matplotlib")
    except (ValueError, OSError) as error:
        words = " ".join(str(error).split())
        raise UserError(f"Matplotlib refuses MPLBACKEND or its configuration files: {words}") from error


def _given(options, kind):
    """Returns the options of one command, without those that were not given."""
    fields = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in vars(options).items() if name in fields and value is not None})


def main() -> int:
    """Runs the command line of this process."""
    try:
        try:
            options = parser().parse_args()
            if options.command == "bench":
                memory.keep_freed_memory()
            else:
                share_out_threads()
            start_jax(getattr(options, "workers", 1))
            return execute(options)
        finally:
            print(end="", flush=True)
    except OSError as error:
        # `store` names the files that it cannot write, so this is standard output: its reader has gone, or it is full.
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        if error.errno == errno.ENOSPC:
            print(f"error: cannot write to standard output: {error.strerror}", file=sys.stderr)
        # As Python's documentation has it: the flush when the interpreter ends must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    # Everything is written and flushed. Shutting the interpreter down would take half a second, in which signals are
    # not answered and JAX's threads that still run have crashed.
    os._exit(main())
