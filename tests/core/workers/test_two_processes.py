"""Two hosts, as two processes of four devices each, train as one host does."""

import json
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest
from joined_processes import PROCESSES, joined, wait_for_all

WORKER = Path(__file__).with_name("two_process_worker.py")


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_two_hosts_train_as_one_device_does_and_refuse_what_cannot_work(tmp_path):
    # One test, so that the processes start once, however the tests are spread.
    with joined(WORKER, tmp_path) as processes:
        wait_for_all(processes, tmp_path)
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
