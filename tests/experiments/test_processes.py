"""`workers --processes`: the numbers of one process, and an end with an error when one of them is killed."""

import contextlib
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import kills
import numpy as np
import pytest
from rich.console import Console

from experiments import workers
from experiments.workers import Options
from experiments.workers.records import RUN
from optkit.comparison.records import read_records

A_MINUTE = 60
CHOSEN = {"task": "diabetes-ridge", "optimizers": ("local_updates", "gossip"), "alpha": float("inf"), "workers": 4}
CHOSEN |= {"steps": 120, "every": 4, "learning_rate": 0.01}
COMMAND = "workers --task diabetes-ridge --optimizers local_updates,gossip --alpha inf --workers 4 --steps 120"
COMMAND += " --every 4 --learning-rate 0.01"


@contextlib.contextmanager
def started(folder):
    """Starts the command on two processes, which save at every report."""
    arguments = [sys.executable, "-c", kills.COMMAND, *COMMAND.split(), "--processes", "2", "--out", str(folder)]
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(kills.ROOT)}
    with (folder.parent / "printed").open("w+") as printed:
        command = subprocess.Popen(arguments, cwd=kills.ROOT, env=environment, stdout=printed, stderr=subprocess.PIPE)
        try:
            yield command
        finally:
            command.kill()
            command.wait()
            command.stderr.close()


def children(parent):
    """The processes that a process has started."""
    found = []
    for file in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # ended meanwhile
            state, number = file.read_text().rpartition(")")[2].split()[:2]
            if int(number) == parent and state != "Z":
                found.append(int(file.parent.name))
    return sorted(found)


def wait_until(condition, command):
    deadline = time.monotonic() + 4 * A_MINUTE
    while not condition():
        assert command.poll() is None, command.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def saved(folder):
    """What the last checkpoint is called; None between two of them."""
    with contextlib.suppress(OSError):
        return json.loads((folder / "checkpoint.json").read_text())["path"]
    return None


def is_running(process):
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.slow
def test_a_process_ends_with_the_command_that_started_it():
    program = "import time; from experiments.workers import processes as p; p._follow_the_command(); time.sleep(600)"
    environment = {**os.environ, "PYTHONPATH": str(kills.ROOT)}
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, env=environment) as process:
        process.stdin.close()
        assert process.wait(4 * A_MINUTE) == 1


@pytest.mark.slow
def test_processes_end_together_continue_and_find_the_numbers_of_one(tmp_path):
    # One test, so that the processes start twice only, however the tests are spread.
    folder = tmp_path / "joined"
    with started(folder) as command:
        wait_until(lambda: saved(folder), command)
        first, second = children(command.pid)
        os.kill(second, signal.SIGKILL)
        _, error = command.communicate(timeout=A_MINUTE)
        assert command.returncode == 2
        assert error.decode() == (
            "error: process 2 of 2 was ended by SIGKILL; the others were ended, and the same command continues from the"
            " last checkpoint\n"
        )
        assert not is_running(first)
    with started(folder) as command:
        _, error = command.communicate(timeout=4 * A_MINUTE)
        assert (command.returncode, error.decode()) == (0, "")
    printed = (tmp_path / "printed").read_text()
    assert printed.startswith("diabetes-ridge on 4 x cpu; results go to ")
    assert "Gloo" not in printed
    workers.run(Options(**CHOSEN, out=tmp_path / "alone"), Console(file=io.StringIO()))
    header, *found = read_records(folder, RUN)
    _, *expected = read_records(tmp_path / "alone", RUN)
    assert header["settings"]["processes"] == 2
    for record, alone in zip(found, expected, strict=True):
        for curve in ("optimizer", "steps", "sent", "exchanges"):
            assert record[curve] == alone[curve]
        for curve in ("train_loss", "worst", "consensus"):
            own, others = (np.array(each[curve], float) for each in (record, alone))
            np.testing.assert_allclose(own, others, rtol=1e-4, atol=1e-6, err_msg=curve)
