"""`--processes N`: the same run on N processes of this machine, which `jax.distributed` joins.

Each process has its part of the workers, a device for each. The command itself starts and watches them; when one of
them ends early, it ends the others, and when it is ended itself, they notice and end.
"""

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from typing import IO, Any

import jax
from rich.console import Console

from experiments import workers
from experiments.errors import UserError
from experiments.workers import Options
from optkit.comparison import ComparisonError
from optkit.comparison import run as engine
from optkit.comparison.terminal import Terminal, visible

# Exit codes for what is wrong with standard output.
_OUTPUT = {errno.EPIPE: 64, errno.ENOSPC: 65}
# How long a process that hears nothing from another one waits before it ends.
_HEARTBEAT_SECONDS = 20


def run(options: Options) -> None:
    """Trains as `workers.run` does, on several processes.

    Args:
        options: what to train; the number of processes divides that of workers.

    Raises:
        UserError: if a process ends early.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"
    given = {"options": _plain(options), "address": address, "seconds": engine.SECONDS_BETWEEN_CHECKPOINTS}
    with contextlib.ExitStack() as stack:
        started = []
        for index in range(options.processes):
            log = stack.enter_context(tempfile.TemporaryFile("w+", errors="replace"))
            command = [sys.executable, "-m", "experiments.workers.processes", json.dumps({**given, "index": index})]
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=None if index == 0 else subprocess.DEVNULL,
                stderr=log,
                # A signal from the terminal is for the command, which they follow.
                start_new_session=True,
            )
            stack.callback(_end, process)
            started.append((process, log))
        _watch(started)


def _watch(started: list[tuple[subprocess.Popen, IO[str]]]) -> None:
    """Waits until all processes have ended.

    Raises:
        UserError: if one of them ends early.
    """
    while True:
        codes = [process.poll() for process, _ in started]
        failed = [index for index, code in enumerate(codes) if code]
        if failed:
            # The others of a process that was killed abort.
            first = min(failed, key=lambda index: (codes[index] != 2, codes[index] == -signal.SIGABRT))
            raise UserError(_reason(first, codes[first], started))
        if None not in codes:
            return
        time.sleep(0.05)


def _reason(index, code, started):
    log = started[index][1]
    log.seek(0)
    said = log.read()
    for number, found in _OUTPUT.items():
        if code == found:
            raise OSError(number, os.strerror(number))
    if code == 2 and (errors := [line for line in said.splitlines() if line.startswith("error: ")]):
        return errors[-1].removeprefix("error: ")
    how = f"ended with exit code {code}" if code > 0 else f"was ended by {signal.Signals(-code).name}"
    last = "" if code == -signal.SIGKILL else "".join(f" ({line})" for line in said.strip().splitlines()[-1:])
    return (
        f"process {index + 1} of {len(started)} {how}{last}; the others were ended, and the same command continues from"
        " the last checkpoint"
    )


def _end(process):
    process.kill()
    process.wait()
    process.stdin.close()


def _plain(options: Options) -> dict[str, Any]:
    out = None if options.out is None else str(options.out)
    return {**dataclasses.asdict(options), "out": out}


def _options(plain: dict[str, Any]) -> Options:
    out = None if plain["out"] is None else pathlib.Path(plain["out"])
    lists = {name: tuple(value) for name, value in plain.items() if isinstance(value, list)}
    return Options(**{**plain, **lists, "out": out})


def _join(options: Options, address: str, index: int) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", options.workers // options.processes)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        address,
        num_processes=options.processes,
        process_id=index,
        initialization_timeout=60,
        heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=_HEARTBEAT_SECONDS,
    )


def _follow_the_command() -> None:
    """Ends this process when the command that started it has ended, whose end of the pipe is closed then."""

    def wait():
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _keep_output_apart() -> None:
    """Sends to standard error what libraries of C++ write to standard output."""
    own = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = open(own, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)  # noqa: PTH123, SIM115


def main() -> int:
    """Runs one of the processes."""
    given = json.loads(sys.argv[1])
    _follow_the_command()
    _keep_output_apart()
    engine.SECONDS_BETWEEN_CHECKPOINTS = given["seconds"]
    options = _options(given["options"])
    try:
        _join(options, given["address"], given["index"])
        workers.run(options, Terminal() if given["index"] == 0 else Console(quiet=True))
        print(end="", flush=True)
        jax.distributed.shutdown()
    except (UserError, ComparisonError) as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        return 2
    except SystemExit:  # from Rich, where nobody reads standard output any more
        return _OUTPUT[errno.EPIPE]
    except Exception as error:  # noqa: BLE001  (raised, it would wait for the other processes)
        if isinstance(error, OSError) and error.errno in _OUTPUT:
            return _OUTPUT[error.errno]
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    os._exit(main())
