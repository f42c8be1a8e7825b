"""What the command line promises."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from experiments import __main__ as command_line
from experiments.benchmarks import sweep
from experiments.store import RunFolder

ROOT = pathlib.Path(command_line.__file__).parents[1]
SMALL = (
    "compare --task diabetes-ridge --optimizers lion --steps 60 --rates 2 --rounds 2 --seeds 2".split()  # noqa: SIM905
)
# Saves at every report, and kills itself at the n-th change of a file in the run's folder.
KILLED = """
    import os, signal, sys
    from experiments import __main__, compare

    compare.SECONDS_BETWEEN_CHECKPOINTS = 0.0
    folder, left = sys.argv[1], int(sys.argv[2])

    def count(event, arguments):
        global left
        if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"):
            if str(arguments[0]).startswith(folder):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    options = __main__.parser().parse_args([*sys.argv[3:], "--out", folder])
    __main__.start_jax(options.workers)
    sys.exit(__main__.execute(options))
"""


def python(*arguments):
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", "PYTHONWARNINGS": "error"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_xla_has_threads_to_spare_and_lapack_one_unless_the_user_says_how_many(monkeypatch):
    for name in ("NPROC", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    command_line.share_out_threads()
    assert int(os.environ["NPROC"]) >= 8 * (os.cpu_count() or 1)
    assert os.environ["OPENBLAS_NUM_THREADS"] == "1"
    monkeypatch.setenv("NPROC", "3")
    command_line.share_out_threads()
    assert os.environ["NPROC"] == "3"


def numbers(folder):
    """The results without the timing."""
    records = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key != "milliseconds_per_step"} for record in records]


def refused(capsys, *arguments):
    """The one line on standard error with which a command is refused."""
    try:
        code = command_line.execute(command_line.parser().parse_args(arguments))
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    finished = python("-m", "experiments", *SMALL, "--out", folder)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    return folder, finished.stdout


def test_a_run_prints_plain_progress_and_a_table_and_draws_a_figure(reference):
    folder, printed = reference
    assert "lion: 120/120 steps, validation loss" in printed
    assert "│ adamw" in printed
    assert "\x1b" not in printed
    assert (folder / "figure.png").exists()


def test_a_run_that_is_killed_again_and_again_ends_bit_for_bit_the_same(reference, tmp_path):
    # At 200 changes of files and more, in all: opening the lock, amid checkpoints and amid results.
    killed = 0
    for change in (1, 3, 40, 111, 250, 400):
        outcome = python("-c", textwrap.dedent(KILLED), tmp_path, change, *SMALL)
        killed += outcome.returncode == -signal.SIGKILL
        assert outcome.returncode in (-signal.SIGKILL, 0), outcome.stderr
    assert killed >= 4
    last = python("-m", "experiments", *SMALL, "--out", tmp_path)
    assert last.returncode == 0, last.stderr
    assert numbers(tmp_path) == numbers(reference[0])


def test_a_run_killed_while_it_computes_continues_with_its_checkpoint(reference, tmp_path):
    arguments = [sys.executable, "-c", textwrap.dedent(KILLED), tmp_path, "0", *SMALL]
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
        while not (tmp_path / "checkpoint.json").exists() and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "checkpoint.json").exists()
    last = python("-m", "experiments", *SMALL, "--out", tmp_path)
    assert last.returncode == 0, last.stderr
    assert numbers(tmp_path) == numbers(reference[0])


def test_workers_get_devices_and_give_the_same_result(reference, tmp_path):
    finished = python("-m", "experiments", *SMALL, "--workers", 4, "--out", tmp_path)
    assert finished.returncode == 0, finished.stderr
    alone, shared = numbers(reference[0]), numbers(tmp_path)
    assert "4 x cpu" in shared[0]["hardware"]["devices"]
    compared = 0
    for one, other in zip(alone[1:], shared[1:], strict=True):
        # The first round: later ones choose rates by losses that may differ in the last digit.
        if one["record"] == "training" and one["round"] == 0:
            assert other["validation"]["loss"] == pytest.approx(one["validation"]["loss"], rel=1e-3)
            compared += 1
    assert compared == 8


def test_drawing_only_trains_nothing(reference, capsys):
    folder, printed = reference
    (folder / "figure.png").unlink()
    assert command_line.execute(command_line.parser().parse_args(["compare", "--plot-only", str(folder)])) == 0
    assert "│ lion" in capsys.readouterr().out
    assert "│ lion" in printed
    assert (folder / "figure.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compare", "--task", "digits-mpl"), "unknown task 'digits-mpl'; did you mean digits-mlp"),
        (("compare", "--optimizers", "sgd,adamv"), "unknown optimizer 'adamv'; did you mean adamw"),
        (("compare", "--optimizers", "lion_kappa:hubr"), "did you mean lion_kappa:huber"),
        (("compare", "--steps", "0"), "must be a positive integer, got 0"),
        (("compare", "--steps", "-5"), "must be a positive integer, got -5"),
        (("compare", "--steps", "many"), "must be a positive integer, got many"),
        (("compare", "--rates", "1"), "must be at least 2"),
        (("compare", "--weight-decay", "nan"), "must be a number of at least 0, got nan"),
        (("compare", "--weight-decay", "some"), "must be a number of at least 0, got some"),
        (("compare", "--workers", "3"), "--workers 3 does not divide the batch of digits-mlp, 64"),
        (("compare", "--plot-only", "/nowhere"), "there is no results.jsonl in /nowhere"),
        (("compare", "--out", "/dev/null/run"), "cannot write to /dev/null/run"),
        (("compare", "--nonsense"), "unrecognized arguments: --nonsense"),
        (("contrast",), "invalid choice: 'contrast'"),
    ],
)
def test_bad_input_is_refused_in_one_line(capsys, arguments, message):
    assert message in refused(capsys, *arguments)


def test_a_second_run_in_the_same_folder_is_refused_in_one_line(capsys, tmp_path):
    with RunFolder.locked(tmp_path):
        assert f"another run is writing to {tmp_path}" in refused(capsys, "compare", "--out", str(tmp_path))


def test_a_damaged_checkpoint_is_refused_in_one_line(reference, tmp_path):
    # Killed in the midst of it, with checkpoints at hand.
    assert python("-c", textwrap.dedent(KILLED), tmp_path, 60, *SMALL).returncode == -signal.SIGKILL
    index = json.loads((tmp_path / "checkpoint.json").read_text())
    files = [file for file in (tmp_path / "checkpoints" / index["path"]).rglob("*") if file.is_file()]
    largest = max(files, key=lambda file: file.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    outcome = python("-m", "experiments", *SMALL, "--out", tmp_path)
    assert outcome.returncode == 2
    assert outcome.stderr.startswith("error: the checkpoint")
    assert outcome.stderr.count("\n") == 1
    (tmp_path / "checkpoint.json").unlink()  # as the message says
    assert python("-m", "experiments", *SMALL, "--out", tmp_path).returncode == 0
    assert numbers(tmp_path) == numbers(reference[0])


def test_a_whole_grid_costs_much_less_than_its_trainings_one_by_one(capsys, monkeypatch):
    # The printed ratio is about 3 on two free cores; eighteen single trainings would make 18.
    monkeypatch.setattr(sweep, "STEPS", 300)
    assert command_line.execute(command_line.parser().parse_args(["bench", "sweep"])) == 0
    printed = capsys.readouterr().out
    assert 0 < float(printed.split("ratio ")[1]) < 12
