"""Kills commands in the midst of their work, and compares how they end with runs that nobody killed.

`python tests/experiments/kills.py --kills 30` does so with every command, and takes about half an hour.
"""

import argparse
import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

ROOT = pathlib.Path(__file__).parents[2]
TIMES = ("seconds", "milliseconds", "_per_second", "ratio", "share_of", "first_step")
# Checkpoints at every report, so that kills fall among them too.
COMMAND = """
import sys
from experiments import __main__
from optkit.comparison import run
run.SECONDS_BETWEEN_CHECKPOINTS = 0.0
sys.exit(__main__.main())
"""


@dataclasses.dataclass(frozen=True)
class Command:
    """A command to kill.

    Attributes:
        arguments: of `python -m experiments`.
        compared: which of the files that it writes hold no times, and must end with the same bytes.
        lives: a life between two kills lasts up to this part of a whole run; 1 for a command that does not continue.
    """

    arguments: str
    compared: tuple[str, ...] = ()
    lives: int = 1


COMMANDS = {
    "compare": Command(
        "compare --task diabetes-ridge --optimizers lion --steps 1000 --rates 2 --rounds 2 --seeds 2",
        ("report.png",),
        lives=6,
    ),
    "workers": Command(
        "workers --task diabetes-ridge --alpha inf --optimizers gossip,choco --workers 4 --steps 1000"
        " --step-milliseconds 10",
        ("figure.png",),
        lives=6,
    ),
    "claims": Command("claims random_scaling/exact_linearization random_scaling/parity", ("claims.md",)),
    "claims with figures": Command("claims median_clipping", ("claims.md", "*.png")),
    "bench update": Command("bench update --size 7M --optimizers signum,lion_kappa --rounds 2"),
}


def without_times(value: Any) -> Any:
    """Removes what was measured with a clock from a record."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if not any(time in key for time in TIMES)}
        return {key: without_times(item) for key, item in kept.items()}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def results(folder: pathlib.Path, command: Command) -> dict[str, Any]:
    """Reads all that a command has written but times; raises where a file is not whole."""
    read: dict[str, Any] = {
        file.name: without_times([json.loads(line) for line in file.read_text().splitlines()])
        for file in folder.glob("*.jsonl")
    }
    read |= {
        file.name: without_times(json.loads(file.read_text()))
        for file in folder.glob("*.json")
        if file.name != "checkpoint.json"
    }
    return read | {file.name: file.read_bytes() for pattern in command.compared for file in folder.glob(pattern)}


@contextlib.contextmanager
def started(command: Command, folder: pathlib.Path) -> Iterator[subprocess.Popen]:
    """Starts a command; kills it at the end where it still runs."""
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-c", COMMAND, *command.arguments.split(), "--out", str(folder)]
    with (
        tempfile.TemporaryFile("w+") as printed,
        subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=printed, stderr=printed) as process,
    ):
        try:
            yield process
        finally:
            process.kill()
        process.wait()
        if process.returncode not in (0, -signal.SIGKILL):
            printed.seek(0)
            raise AssertionError(f"{command.arguments} ended with {process.returncode}: {printed.read()[-2000:]}")


def changes(folder: pathlib.Path) -> int:
    """When checkpoints, or results that come without them, were last changed, in nanoseconds."""
    files = (file for file in folder.rglob("*") if file.name not in ("lock", "results.jsonl"))
    with contextlib.suppress(FileNotFoundError):  # removed meanwhile
        return max((file.stat().st_mtime_ns for file in files), default=0)
    return time.time_ns()


def run_to_the_end(command: Command, folder: pathlib.Path) -> float:
    """Runs a command without kills; returns the seconds from its first checkpoint or result to its end."""
    with started(command, folder) as process:
        before = changes(folder)
        while changes(folder) == before and process.poll() is None:
            time.sleep(0.01)
        begin = time.monotonic()
        process.wait()
    assert process.returncode == 0
    return time.monotonic() - begin


def kill(command: Command, folder: pathlib.Path, delay: float) -> bool:
    """Kills a command some seconds after its first checkpoint or result; says whether it was still running."""
    with started(command, folder) as process:
        before = changes(folder)
        while changes(folder) == before and process.poll() is None:
            time.sleep(0.002)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(delay)
    return process.returncode == -signal.SIGKILL


def progress(folder: pathlib.Path) -> str:
    """Says in words how far a run came."""
    read = results(folder, Command(""))
    records = sum(len(content) - file.endswith(".jsonl") for file, content in read.items())
    return f"{records} records{' and a checkpoint' if (folder / 'checkpoint.json').exists() else ''}"


def check(name: str, kills: int, kills_a_run: int = 4, seed: int = 0, say: Callable[[str], None] = print) -> None:
    """Kills a command at random moments and lets it end, again and again.

    Args:
        name: the command's.
        kills: how many in all, before all results were there.
        kills_a_run: after how many a run may end.
        seed: of the moments.
        say: is told what happens.

    Raises:
        AssertionError: if a run ends otherwise than one that nobody killed, or a kill leaves a file that is not whole.
    """
    command, moments = COMMANDS[name], random.Random(seed)  # noqa: S311
    with tempfile.TemporaryDirectory() as place:
        reference = pathlib.Path(place, "reference")
        seconds = run_to_the_end(command, reference)
        expected = results(reference, command)
        killed, ends = collections.Counter(), 0
        while killed.total() < kills:
            folder = pathlib.Path(place, f"killed-{ends}")
            for _ in range(min(kills_a_run, kills - killed.total())):
                amid = kill(command, folder, moments.uniform(0, seconds / command.lives))
                if not amid or results(folder, command) == expected:
                    break
                killed[progress(folder)] += 1
            run_to_the_end(command, folder)
            there = results(folder, command)
            differing = {file for file in {*expected, *there} if there.get(file) != expected.get(file)}
            assert not differing, f"{name}: {sorted(differing)} of {folder} differ after {killed.total()} kills"
            leftovers = {file.name for file in folder.iterdir()} - {file.name for file in reference.iterdir()}
            assert not leftovers, f"{name}: {sorted(leftovers)} were left behind"
            ends += 1
            say(f"{name}: {killed.total()} kills, {ends} runs that ended bit for bit as without")
        say(f"{name}: killed with " + ", ".join(f"{words} ({times} times)" for words, times in killed.items()))


def main() -> None:
    """Runs the script's command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commands", nargs="*", default=list(COMMANDS), help=f"among {', '.join(COMMANDS)}")
    parser.add_argument("--kills", type=int, default=30, help="of each command (default: 30)")
    options = parser.parse_args()
    for name in options.commands:
        check(name, options.kills)


if __name__ == "__main__":
    main()
