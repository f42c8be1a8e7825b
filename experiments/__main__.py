"""The command line: `python -m experiments compare`, `... decentralized`, `... claims`, `... bench`."""

import argparse
import dataclasses
import math
import os
import pathlib
import sys
from typing import NoReturn

from experiments.benchmarks import memory


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def _positive(text):
    number = int(text) if text.lstrip("+-").isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text}")
    return number


def _count(text):
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"must be an integer of at least 0, got {text}")
    return int(text)


def _at_least_two(text):
    if _positive(text) < 2:
        raise argparse.ArgumentTypeError(f"must be at least 2, got {text}")
    return int(text)


def _names(text):
    return tuple(name for name in text.split(",") if name)


def _not_negative(text):
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, got {text}")
    return number


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

    compare = commands.add_parser("compare", help="compare optimizers under equal tuning")
    compare.add_argument("--task", default="digits-mlp", help="what to train: a file of experiments/tasks")
    compare.add_argument(
        "--optimizers",
        type=_names,
        help="names with commas between; a variant is name:variant; adamw is always among them",
    )
    compare.add_argument("--steps", type=_positive, help="length of every training (default: the task's)")
    compare.add_argument("--rates", type=_at_least_two, default=6, help="learning rates tried in a round (default: 6)")
    compare.add_argument("--rounds", type=_positive, default=3, help="rounds of learning rates (default: 3)")
    compare.add_argument("--seeds", type=_positive, default=3, help="trainings of each learning rate (default: 3)")
    compare.add_argument(
        "--weight-decay", type=_not_negative, default=0.0, help="for all optimizers that have it (default: 0)"
    )
    compare.add_argument("--workers", type=_positive, default=1, help="devices that share each batch (default: 1)")
    compare.add_argument("--out", type=pathlib.Path, help="the run's folder (default: one named after all of these)")
    compare.add_argument("--plot-only", type=pathlib.Path, metavar="RUN", help="only draw the run in this folder again")

    bench = commands.add_parser("bench", help="measure what things cost")
    benches = bench.add_subparsers(dest="what", required=True, parser_class=_Parser)
    benches.add_parser("sweep", help="a grid of trainings beside a plain loop of one")
    update = benches.add_parser("update", help="one update of each method beside Optax's nearest")
    update.add_argument("--size", default="all", help="7M or 50M parameters (default: all)")
    update.add_argument("--optimizers", type=_names, help="names with commas between (default: all without variants)")
    update.add_argument("--dtype", default="float32", help="of parameters and gradients (default: float32)")
    update.add_argument("--rounds", type=_positive, default=20, help="measurements of each method (default: 20)")
    update.add_argument("--out", type=pathlib.Path, help="where results go (default: experiments/results)")
    for name, workers, text in (
        ("sharded", 8, "what optimizers of matrices send between eight devices"),
        ("compile", 1, "how compile time grows with the layers of a transformer"),
        ("gossip", 8, "a round of mixing beside the messages that it sends"),
    ):
        other = benches.add_parser(name, help=text)
        other.add_argument("--out", type=pathlib.Path, help="where results go (default: experiments/results)")
        other.set_defaults(workers=workers)

    decentralized = commands.add_parser("decentralized", help="train on workers that talk to their neighbours")
    decentralized.add_argument("--task", help="what to train: a file of experiments/tasks (default: digits-mlp)")
    decentralized.add_argument("--optimizers", type=_names, help="decentralized methods, with commas between")
    decentralized.add_argument("--inner", help="the optimizer that they wrap (default: sgd)")
    decentralized.add_argument("--learning-rate", type=_not_negative, help="constant (default: each method's own)")
    decentralized.add_argument("--topology", help="who hears whom, such as erdos_renyi:0.4 (default: ring)")
    decentralized.add_argument("--workers", type=_positive, default=8, help="how many (default: 8)")
    decentralized.add_argument(
        "--alpha", type=_concentration, help="how evenly classes are dealt, inf for evenly (default: 0.1)"
    )
    decentralized.add_argument(
        "--mixing", help="how values are mixed, such as trimmed_mean (default: each method's own)"
    )
    decentralized.add_argument("--compressor", help="for methods that compress (default: top_k:0.1)")
    decentralized.add_argument("--gamma", type=_not_negative, help="how far these move to others (default: 0.3)")
    decentralized.add_argument("--every", type=_positive, help="exchange in every so many steps only (default: 1)")
    decentralized.add_argument("--dropout", type=_probability, help="share of links lost in a step (default: 0)")
    decentralized.add_argument("--silent", type=_count, help="workers cut off for a third of the run (default: 0)")
    decentralized.add_argument("--attack", help="what attackers do, such as sign_flip (default: nobody attacks)")
    decentralized.add_argument("--byzantine", type=_positive, help="how many workers attack (default: 2)")
    decentralized.add_argument("--steps", type=_positive, help="length of every training (default: the task's)")
    decentralized.add_argument("--seed", type=_count, help="of parameters and draws (default: 0)")
    decentralized.add_argument(
        "--backend", choices=("vmap", "shard_map"), help="one device, or a device each (default: vmap)"
    )
    decentralized.add_argument("--out", type=pathlib.Path, help="the run's folder (default: named after all of these)")
    decentralized.add_argument("--plot-only", type=pathlib.Path, metavar="RUN", help="only draw this run again")

    claims = commands.add_parser("claims", help="measure what papers claim, at toy scale")
    claims.add_argument("family", nargs="?", help="only the claims about this family (default: all)")
    claims.add_argument("--out", type=pathlib.Path, help="where results go (default: experiments/results)")
    return parser


def start_jax(workers: int) -> None:
    """Sets what JAX reads when it starts.

    Args:
        workers: how many devices are needed at least.
    """
    # So that a run that was killed ends bit for bit the same on a GPU too.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()
    import jax  # noqa: PLC0415

    # A device for each core, over which the trainings are spread, or for each worker.
    jax.config.update("jax_num_cpu_devices", max(workers, os.cpu_count() or 1))


def share_out_threads() -> None:
    """Sets how many threads XLA and LAPACK make, unless the user has, for trainings that have a core each.

    Before jaxlib 0.11.1, LAPACK calls for stacks of matrices wait for threads of the pool in which they run themselves.
    By default that has one for each core, and where each is in such a call, all wait for ever. And OpenBLAS would have
    a thread for each core in every call, which get in each other's way: for matrices of 64 x 64 a hundredfold.
    """
    os.environ.setdefault("NPROC", str(8 * (os.cpu_count() or 1)))
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def execute(options: argparse.Namespace) -> int:
    """Runs a command.

    Args:
        options: the parsed command line.

    Returns:
        The exit code: 0, 2 for what the user can put right, 130 where the user interrupted.
    """
    from rich.console import Console  # noqa: PLC0415

    from experiments import compare, decentralized, evidence  # noqa: PLC0415
    from experiments.benchmarks import compile_time, gossip, sharded, sweep, update  # noqa: PLC0415
    from experiments.errors import UserError  # noqa: PLC0415

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    try:
        if options.command == "bench" and options.what == "sweep":
            sweep.run(console)
        elif options.command == "bench":
            module = {"update": update, "sharded": sharded, "compile": compile_time, "gossip": gossip}[options.what]
            module.run(_given(options, module.Options), console)
        elif options.command == "claims":
            evidence.run(options.family, options.out or evidence.RESULTS, console)
        elif options.command == "decentralized" and options.plot_only:
            decentralized.show(options.plot_only, console)
        elif options.command == "decentralized":
            decentralized.run(_given(options, decentralized.Options), console)
        elif options.plot_only:
            compare.show_only(options.plot_only, console)
        else:
            compare.run(_given(options, compare.Options), console)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = (
            "the same command continues"
            if options.command in ("compare", "decentralized")
            else "what is finished is kept"
        )
        print(f"interrupted; {kept}", file=sys.stderr)
        return 130
    return 0


def _given(options, kind):
    """The options of one command, without those that were not given."""
    fields = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in vars(options).items() if name in fields and value is not None})


def main() -> int:
    """Runs this process's command line."""
    options = parser().parse_args()
    if options.command == "bench":
        memory.keep_freed_memory()
    else:
        share_out_threads()
    start_jax(getattr(options, "workers", 1))
    return execute(options)


if __name__ == "__main__":
    sys.exit(main())
