"""Whoever has only the wheel can compare a model and an optimizer of their own, and lose nothing to a kill."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import pytest

import optkit

ROOT = pathlib.Path(optkit.__file__).parents[1]
STRANGER = """
    import os, signal, sys

    import jax
    import jax.numpy as jnp
    import optax

    import optkit

    folder, advances = sys.argv[1], int(sys.argv[2])
    if advances:
        from optkit.comparison import run

        run.SECONDS_BETWEEN_CHECKPOINTS = 0.0
        advance = run.Trainings.advance

        def kill(*arguments):
            global advances
            advances -= 1
            if not advances:
                os.kill(os.getpid(), signal.SIGKILL)
            return advance(*arguments)

        run.Trainings.advance = kill

    key = jax.random.key(7)
    x = jax.random.normal(key, (200, 5))
    data = (x, jnp.sin(x.sum(axis=1)))

    def init(key):
        first, second = jax.random.split(key)
        return {"in": jax.random.normal(first, (5, 16)) / 2, "out": jax.random.normal(second, (16,)) / 4}

    def loss(params, batch):
        x, y = batch
        return jnp.mean((jnp.tanh(x @ params["in"]) @ params["out"] - y) ** 2)

    def strange(learning_rate):
        '''A stranger's.'''
        return optax.chain(optax.scale_by_sign(), optax.scale_by_learning_rate(learning_rate))

    parts = [jax.tree.map(lambda leaf: leaf[rows], data) for rows in (slice(120), slice(120, 160), slice(160, None))]
    result = optkit.compare(
        [strange], loss=loss, params=init, train=parts[0], validation=parts[1], test=parts[2],
        steps=40, batch_size=16, rates=2, rounds=1, seeds=2, folder=folder,
    )
    result.save(folder + "/report.html")
    assert "experiments" not in sys.modules
    print(optkit.__file__)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder into which the wheel was unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder / "dist"]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*install, folder / "site", wheel], check=True, capture_output=True)
    return folder / "site"


def compare(installed, folder, advances=0):
    environment = {**os.environ, "PYTHONPATH": str(installed), "JAX_NUM_CPU_DEVICES": "1"}
    command = [sys.executable, "-c", textwrap.dedent(STRANGER), folder, str(advances)]
    cwd = folder.parent
    return subprocess.run(command, cwd=cwd, env=environment, check=False, capture_output=True, text=True)


def numbers(folder):
    records = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key != "milliseconds_per_step"} for record in records]


@pytest.mark.slow
def test_a_strangers_model_is_compared_from_the_wheel_alone_and_killed_runs_end_the_same(installed, tmp_path):
    whole = compare(installed, tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    assert whole.stdout.splitlines()[-1].startswith(str(installed))
    assert "A stranger" in (tmp_path / "whole" / "report.html").read_text()
    for advances in (7, 60):  # during AdamW's training and the stranger's
        killed = compare(installed, tmp_path / "killed", advances)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    last = compare(installed, tmp_path / "killed")
    assert last.returncode == 0, last.stderr
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")
