"""The command line: `python -m experiments compare`, `... claims`, `... bench`."""

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


def execute(options: argparse.Namespace) -> int:
    """Runs a command.

    Args:
        options: the parsed command line.

    Returns:
        The exit code: 0, 2 for what the user can put right, 130 where the user interrupted.
    """
    from rich.console import Console  # noqa: PLC0415

    from experiments import compare, evidence  # noqa: PLC0415
    from experiments.benchmarks import sweep, update  # noqa: PLC0415
    from experiments.errors import UserError  # noqa: PLC0415

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    try:
        if options.command == "bench" and options.what == "sweep":
            sweep.run(console)
        elif options.command == "bench":
            update.run(_given(options, update.Options), console)
        elif options.command == "claims":
            evidence.run(options.family, options.out or evidence.RESULTS, console)
        elif options.plot_only:
            compare.show_only(options.plot_only, console)
        else:
            compare.run(_given(options, compare.Options), console)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = "the same command continues" if options.command == "compare" else "what is finished is kept"
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
    start_jax(getattr(options, "workers", 1))
    return execute(options)


if __name__ == "__main__":
    sys.exit(main())
