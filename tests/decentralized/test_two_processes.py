"""Two hosts, as two processes of four devices each, train decentralized as one does, and end together."""

import runpy
from pathlib import Path

import jax
import numpy as np
import pytest
from joined_processes import PROCESSES, joined, wait_until

PROGRAM = Path(__file__).with_name("two_process_training.py")
A_MINUTE = 60


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_two_hosts_train_as_one_device_does_end_with_each_other_and_resume(tmp_path):
    # One test, so that the processes start twice only, however the tests are spread.
    fresh = train_and_kill(tmp_path, "fresh", killed=1)
    resumed = train_and_kill(tmp_path, "resumed", killed=0)
    expected = jax.tree.leaves(runpy.run_path(str(PROGRAM))["train"]("vmap"))
    for x, y, z in zip(fresh, resumed, expected, strict=True):
        np.testing.assert_allclose(x, np.asarray(z), rtol=1e-12, atol=1e-12, err_msg="not the numbers of one device")
        np.testing.assert_array_equal(y, x, err_msg="not the numbers of the run that was not interrupted")
    assert max(np.ptp(x, axis=0).max() for x in fresh) > 1e-3, "the workers must not have merged"


def train_and_kill(folder, run, killed):
    """Gives what all workers have after training, and then kills one process, which must end the other."""
    files = [folder / f"{run}{index}.npz" for index in range(PROCESSES)]
    survivor = 1 - killed
    with joined(PROGRAM, folder, run) as processes:
        wait_until(lambda: all(file.exists() for file in files), processes, folder)
        processes[killed].kill()
        code = processes[survivor].wait(timeout=A_MINUTE)
    log = (folder / f"log{survivor}").read_text()
    assert code != 0, log
    # The distributed service says the first, or the collective that it was in the second.
    assert "another task died" in log or "closed by peer" in log, log
    hosts = [np.load(file) for file in files]
    return [np.concatenate([host[name] for host in hosts]) for name in hosts[0]]
