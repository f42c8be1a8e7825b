"""Real processes, hosts to JAX, that tests start, wait for and end."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROCESSES = 2
DEVICES = 4
SECONDS = 240  # for starting Python and JAX twice and compiling a few programs on a busy machine; usually under 10


@contextlib.contextmanager
def joined(program, folder, *arguments):
    """Runs `program ADDRESS PROCESSES INDEX FOLDER ARGUMENTS...` in all processes; those still running end with it.

    Their output stands in `folder/log0`, `folder/log1` ...
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}",
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error",
    }
    processes = []
    try:
        for index in range(PROCESSES):
            command = [sys.executable, str(program), address, str(PROCESSES), str(index), str(folder), *arguments]
            with (folder / f"log{index}").open("w") as output:
                processes.append(subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT))
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def wait_until(condition, processes, folder, seconds=SECONDS):
    """Waits for a condition, and fails where a process ends with an error before, or time does."""
    deadline = time.monotonic() + seconds
    while not condition():
        late = time.monotonic() > deadline
        if late or any(process.poll() for process in processes):
            ends = [
                f"process {index} {'still runs' if process.poll() is None else f'ended with {process.poll()}'}:\n"
                f"{(folder / f'log{index}').read_text()}"
                for index, process in enumerate(processes)
            ]
            raise AssertionError("\n".join([f"after {seconds} seconds:" if late else "too early:", *ends]))
        time.sleep(0.1)


def wait_for_all(processes, folder):
    """Waits until all have ended without error. One that fails would leave the others waiting for it."""
    wait_until(lambda: all(process.poll() == 0 for process in processes), processes, folder)
