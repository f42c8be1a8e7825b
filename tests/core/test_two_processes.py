"""Two hosts, as two processes of four devices each, train as one host does."""

import json
import os
import runpy
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

WORKER = Path(__file__).with_name("two_process_worker.py")
ROOT = Path(__file__).parents[2]
PROCESSES = 2
SECONDS = 240  # for starting Python and JAX twice and compiling four programs on a busy machine; usually under 10


def run_processes(folder):
    """Runs all processes to their end, and no longer than `SECONDS`."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error",
    }
    logs = [folder / f"log{index}" for index in range(PROCESSES)]
    processes = []
    try:
        for index, log in enumerate(logs):
            command = [sys.executable, str(WORKER), address, str(PROCESSES), str(index), str(folder)]
            with log.open("w") as output:
                processes.append(subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT))
        deadline = time.monotonic() + SECONDS
        # One that fails leaves the other waiting for it.
        while any(process.poll() is None for process in processes) and not any(process.poll() for process in processes):
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    ends = [f"process {i} ended with {p.returncode}:\n{logs[i].read_text()}" for i, p in enumerate(processes)]
    assert all(process.returncode == 0 for process in processes), "\n".join(ends)


@pytest.mark.usefixtures("x64")
def test_two_hosts_train_as_one_device_does_and_refuse_what_cannot_work(tmp_path):
    # One test, so that the processes start once, however the tests are spread.
    run_processes(tmp_path)
    shared, own, losses = runpy.run_path(str(WORKER))["train"]("vmap", lambda x: x)
    assert np.ptp(losses) > 1e-3, "the workers must not have merged"

    for run in ("auto", "explicit_mesh", "whole_stack_on_each_host", "pmap"):
        hosts = [np.load(tmp_path / f"{run}{index}.npz") for index in range(PROCESSES)]
        for host in hosts:
            assert_close(host["losses"], losses, run)
            for i, expected in enumerate(jax.tree.leaves(shared)):
                assert_close(host[f"shared{i}"], expected, run)
        for i, expected in enumerate(jax.tree.leaves(own)):
            assert_close(np.concatenate([host[f"own{i}"] for host in hosts]), expected, run)

    for index in range(PROCESSES):
        errors = json.loads((tmp_path / f"errors{index}.json").read_text())
        assert f"{PROCESSES} processes are joined by jax.distributed" in errors["vmap"]
        assert "takes 8 rows (one for each of all hosts' devices, global arrays), got 4" in errors["shard_map"]


def assert_close(actual, expected, run):
    np.testing.assert_allclose(actual, np.asarray(expected), rtol=1e-12, atol=1e-12, err_msg=run)
