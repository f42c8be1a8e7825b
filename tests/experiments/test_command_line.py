"""What the command line promises."""

import contextlib
import io
import json
import os
import pathlib
import pty
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from experiments import __main__ as command_line
from experiments.benchmarks import sweep
from optkit.comparison import Comparison
from optkit.comparison.baselines import BASELINES
from optkit.comparison.store import RunFolder

ROOT = pathlib.Path(command_line.__file__).parents[1]
SMALL = (
    "compare --task diabetes-ridge --optimizers lion --steps 60 --rates 2 --rounds 2 --seeds 2".split()  # noqa: SIM905
)
# Runs a command, which saves at every report, again and again, and kills it at the n-th change of a file in the run's
# folder, for some numbers n. Prints how each ended. What is slow to import is imported once, before they part.
KILLED = """
    import json, os, signal, sys
    from experiments import __main__, compare
    from optkit.comparison import run

    run.SECONDS_BETWEEN_CHECKPOINTS = 0.0
    folder = sys.argv[1]

    def count(event, arguments):
        global left
        if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"):
            if str(arguments[0]).startswith(folder):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

    for left in json.loads(sys.argv[2]):
        if process := os.fork():
            _, status = os.waitpid(process, 0)
            print("ended with", os.waitstatus_to_exitcode(status), flush=True)
        else:
            sys.addaudithook(count)
            options = __main__.parser().parse_args([*sys.argv[3:], "--out", folder])
            __main__.start_jax(options.workers)
            os._exit(__main__.execute(options))
"""
# Goes on with the runs in some folders, one after the other.
CONTINUED = """
    import json, sys
    from experiments import __main__

    __main__.start_jax(workers=1)
    for folder in json.loads(sys.argv[1]):
        code = __main__.execute(__main__.parser().parse_args([*sys.argv[2:], "--out", folder]))
        assert code == 0, (folder, code)
"""


# Saves at every report.
OFTEN_SAVED = """
    from experiments import interruption

    interruption.watch()
    print("watching", flush=True)
    import os
    from experiments import __main__
    from optkit.comparison import run

    run.SECONDS_BETWEEN_CHECKPOINTS = 0.0
    os._exit(__main__.main())
"""
# Runs commands in one process, and says of each how it ended, what it wrote and which of some modules it imported.
SEVERAL = """
    import contextlib, io, json, sys
    from experiments import __main__

    modules, commands = map(json.loads, sys.argv[1:])
    for command in commands:
        sys.argv[1:] = command
        with contextlib.redirect_stderr(io.StringIO()) as error, contextlib.redirect_stdout(io.StringIO()):
            try:
                code = __main__.main()
            except SystemExit as stop:
                code = stop.code
        print(json.dumps([code, error.getvalue(), [name for name in modules if name in sys.modules]]))
"""
# The C locale as it is where Python is told not to improve it.
C_LOCALE = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def environment(**variables):
    return {**os.environ, "JAX_PLATFORMS": "cpu", **variables}


# Measures one claim.
CLAIM = """
    import pathlib, sys
    from experiments import claims, evidence
    from experiments.claims import Claim, Finding
    from optkit.comparison.terminal import Terminal

    words = dict(method="lion", arxiv="2302.06675", statement="It is.", experiment="One step.", required="any")
    made = {"first/one": Claim(**words, measure=lambda: Finding("0.1 \\xb1 0.2", True))}
    claims.load = lambda names=(): made
    evidence.run([], pathlib.Path(sys.argv[1]), Terminal())
"""


def python(*arguments, **variables):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=environment(**{"PYTHONWARNINGS": "error", **variables}),
        capture_output=True,
        text=True,
        check=False,
    )


def killed_at(changes, folder):
    """The exit codes of lives of the small run that end at so many changes of files, or before, whatever they say."""
    finished = python("-c", textwrap.dedent(KILLED), folder, json.dumps(changes), *SMALL)
    assert finished.returncode == 0, finished.stderr
    lines = [line for line in finished.stdout.splitlines() if line.startswith("ended with")]
    codes = [int(line.removeprefix("ended with")) for line in lines]
    assert set(codes) <= {-signal.SIGKILL, 0}, finished.stderr
    assert len(codes) == len(changes)
    return codes


def run_several(modules, commands, **variables):
    """The exit code, standard error and imported modules after each of some commands."""
    finished = python("-c", textwrap.dedent(SEVERAL), json.dumps(modules), json.dumps(commands), **variables)
    assert finished.returncode == 0, finished.stderr
    return {
        " ".join(command): json.loads(line)
        for command, line in zip(commands, finished.stdout.splitlines(), strict=True)
    }


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


@pytest.mark.slow
def test_a_run_prints_plain_progress_and_a_table_and_draws_a_figure(reference):
    folder, printed = reference
    assert "lion: 120/120 steps, validation loss" in printed
    assert "│ adamw " in printed
    assert "\x1b" not in printed
    assert (folder / "report.png").exists()


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_bit_for_bit_the_same(reference, tmp_path):
    # At 200 changes of files and more, in all: opening the lock, amid checkpoints and amid results.
    assert killed_at([1, 3, 40, 111, 250, 400], tmp_path).count(-signal.SIGKILL) >= 4
    last = python("-m", "experiments", *SMALL, "--out", tmp_path)
    assert last.returncode == 0, last.stderr
    assert numbers(tmp_path) == numbers(reference[0])


@pytest.mark.slow
def test_a_run_killed_while_it_computes_continues_with_its_checkpoint(reference, tmp_path):
    arguments = [sys.executable, "-c", textwrap.dedent(OFTEN_SAVED), *SMALL, "--out", tmp_path]
    with subprocess.Popen(arguments, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL) as process:
        while not (tmp_path / "checkpoint.json").exists() and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "checkpoint.json").exists()
    last = python("-m", "experiments", *SMALL, "--out", tmp_path)
    assert last.returncode == 0, last.stderr
    assert numbers(tmp_path) == numbers(reference[0])


@pytest.mark.slow
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


MINE = """
    import jax.numpy as jnp
    import numpy as np
    import optax

    from optkit.comparison import Task


    def task():
        x = np.linspace(-1, 1, 60, dtype=np.float32)
        part = lambda i: {"x": x[i::3], "y": 2 * x[i::3]}
        return Task.of(
            loss=lambda w, batch: jnp.mean((w * batch["x"] - batch["y"]) ** 2),
            params=0.0, train=part(0), validation=part(1), test=part(2), batch_size=4, steps=10,
        )


    def mine(learning_rate):
        return optax.sgd(learning_rate, momentum=0.5)
"""


@pytest.mark.slow
@pytest.mark.parametrize("task", ["own_judged.py", "own_judged:task"])
def test_tasks_and_optimizers_of_ones_own_are_compared(capsys, monkeypatch, tmp_path, task):
    (tmp_path / "own_judged.py").write_text(textwrap.dedent(MINE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    options = f"compare --task {task} --optimizers own_judged:mine --rates 2 --rounds 1 --seeds 2 --out run --tune b1"
    assert command_line.execute(command_line.parser().parse_args(options.split())) == 0
    printed = capsys.readouterr().out
    assert "own_judged" in printed
    assert "│ mine " in printed
    assert "mine" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_everything_that_suits_a_task_is_compared(monkeypatch):
    compared = []
    monkeypatch.setattr("optkit.comparison.run.run", lambda plan, _: compared.extend(plan.methods))
    monkeypatch.setattr("experiments.compare.show", lambda *_: None)
    for task in ("digits-mlp", "diabetes-ridge"):
        assert command_line.execute(command_line.parser().parse_args(["compare", "--task", task, "--all"])) == 0
    names = [method.name for method in compared]
    assert names[0] == "adamw"
    assert {"dion", "storm", "trimmed_mean", "class_normalized", *BASELINES} <= set(names)
    assert names.count("dion") == 2
    assert names.count("class_normalized") == 1  # the other task has no classes


@pytest.mark.slow
def test_drawing_only_trains_nothing(reference, capsys):
    folder, printed = reference
    (folder / "report.png").unlink()
    assert command_line.execute(command_line.parser().parse_args(["compare", "--plot-only", str(folder)])) == 0
    assert "│ lion " in capsys.readouterr().out
    assert "│ lion " in printed
    assert (folder / "report.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compare", "--task", "digits-mpl"), "unknown task 'digits-mpl'; did you mean digits-mlp"),
        (("compare", "--task", "nowhere/mine.py"), "there is no file nowhere/mine.py"),
        (("compare", "--task", "nowhere.mine:task"), "there is no module 'nowhere'"),
        (("compare", "--task", "math:task"), "the module 'math' has no 'task'"),
        (("compare", "--task", "time:time"), "time:time must be a function that returns an optkit.comparison.Task"),
        (("compare", "--optimizers", "nowhere:mine"), "there is no module 'nowhere'"),
        (("compare", "--optimizers", "optax:mine"), "the module 'optax' has no 'mine'"),
        (("compare", "--tune", "b7"), "none of the optimizers has a hyperparameter 'b7' to tune"),
        (("compare", "--tune", "b1,b2,eps"), "tune must be at most 2 different names"),
        (("compare", "--difference", "0"), "must be a positive number, got 0"),
        (("compare", "--optimizers", "sgd,adamv"), "unknown optimizer 'adamv'; did you mean adamw"),
        (("compare", "--optimizers", "lion_kappa:hubr"), "did you mean lion_kappa:huber"),
        (("compare", "--steps", "0"), "must be a positive integer, got 0"),
        (("compare", "--steps", "-5"), "must be a positive integer, got -5"),
        (("compare", "--steps", "many"), "must be a positive integer, got many"),
        (("compare", "--rates", "1"), "must be at least 2"),
        (("compare", "--weight-decay", "nan"), "must be a number of at least 0, got nan"),
        (("compare", "--weight-decay", "some"), "must be a number of at least 0, got some"),
        (("compare", "--workers", "3"), "3 workers do not divide the batch of digits-mlp, 64"),
        (("compare", "--plot-only", "/nowhere"), "there is no results.jsonl in /nowhere"),
        (("compare", "--out", "/dev/null/run"), "cannot write to /dev/null/run"),
        (("compare", "--nonsense"), "unrecognized arguments: --nonsense"),
        (("contrast",), "invalid choice: 'contrast'"),
    ],
)
def test_bad_input_is_refused_in_one_line(capsys, arguments, message):
    assert message in refused(capsys, *arguments)


EARLY = (
    "compare --task digits-mpl",
    "compare --steps 0",
    "compare --optimizers ,",
    "compare --out /dev/null/run",
    "compare --out experiments/__main__.py",
    "compare --plot-only /nowhere",
    "workers --task digits-mpl",
    "workers --topology rign",
    "workers --mixing trimed_mean",
    "workers --mixing trimmed_mean:few",
    "workers --compressor top_q",
    "workers --feedback ef22",
    "workers --bandwidth fast",
    "workers --processes 0",
    "workers --attack sign_flop",
    "workers --backend pmap",
    "workers --out /dev/null/run",
    "workers --plot-only /nowhere",
    "claims sign",
    "claims --out /dev/null/results",
    "bench nothing",
    "bench update --size 8M",
    "bench update --dtype int8",
    *(f"bench {what} --out /dev/null/results" for what in ("update", "peers", "sharded", "compile", "gossip")),
)
HELP = (
    "--help",
    *(f"{name} --help" for name in ("compare", "workers", "claims", "bench", "bench update", "bench peers")),
)


@pytest.mark.slow
def test_names_and_paths_are_refused_before_jax_is_imported():
    modules = ("jax", "numpy", "optkit", "optax", "flax", "sklearn", "scipy", "matplotlib", "orbax")
    for command, (code, error, imported) in run_several(modules, [command.split() for command in EARLY]).items():
        assert code == 2, command
        assert error.startswith("error: "), command
        assert error.count("\n") == 1, command
        assert not imported, command
    for command, (code, error, imported) in run_several(modules, [command.split() for command in HELP]).items():
        assert (code, error, imported) == (0, "", []), command


@pytest.mark.slow
def test_optimizers_are_refused_before_more_than_optkit_is_imported():
    commands = (
        "compare --optimizers adamv",
        "workers --optimizers gosip",
        "workers --inner sdg",
        "bench update --optimizers adamv",
        "bench peers --optimizers adamv",
    )
    modules = ("flax", "sklearn", "scipy.stats", "matplotlib", "orbax")
    for command, (code, error, imported) in run_several(modules, [command.split() for command in commands]).items():
        assert code == 2, command
        assert error.startswith("error: unknown optimizer"), command
        assert error.count("\n") == 1, command
        assert not imported, command


@pytest.mark.slow
def test_a_wrong_backend_of_matplotlib_is_refused_before_data_are_loaded():
    commands = [[command] for command in ("compare", "workers", "claims")] + [["bench", "sweep"]]
    for command, (code, error, imported) in run_several(("flax", "sklearn"), commands, MPLBACKEND="nonsense").items():
        assert code == 2, command
        assert error.startswith("error: Matplotlib refuses MPLBACKEND"), command
        assert error.count("\n") == 1, command
        assert not imported, command


def test_a_folder_that_may_not_be_written_is_refused(capsys, monkeypatch, tmp_path):
    # Whoever tests as root may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path)
    assert f"no permission to write to {tmp_path}" in refused(capsys, "compare", "--out", str(tmp_path / "run"))


@pytest.mark.parametrize("command", ["compare --task", "compare --optimizers", "claims", "compare --nonsense"])
def test_what_is_refused_is_shown_as_it_is_in_one_line(capsys, command):
    error = refused(capsys, *command.split(), "\x1b[31m[red]\nx\u202e")
    assert "\\x1b[31m[red]\\nx\\u202e" in error


@pytest.mark.slow
def test_names_of_folders_are_no_markup(reference, capsys, monkeypatch, tmp_path):
    folder = "x[/a] [red] :smile: $\\frac{$"
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "results.jsonl").write_bytes((reference[0] / "results.jsonl").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert command_line.execute(command_line.parser().parse_args(["compare", "--plot-only", folder])) == 0
    assert f"figure: {folder}/report.png" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("ascii", "+-"), ("latin-1", "±"), ("cp1252", "±"), ("utf-8", "±")],
)
def test_results_are_shown_in_characters_that_standard_output_has(reference, monkeypatch, encoding, expected):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(Comparison, "save", lambda *_: None)  # what is drawn has no part in this
    assert command_line.execute(command_line.parser().parse_args(["compare", "--plot-only", str(reference[0])])) == 0
    stream.flush()
    assert expected in stream.buffer.getvalue().decode(encoding)


@pytest.mark.slow
def test_the_c_locale_is_enough(reference, tmp_path):
    drawn = python("-m", "experiments", "compare", "--plot-only", reference[0], **C_LOCALE)
    assert (drawn.returncode, drawn.stderr) == (0, "")
    assert "+-" in drawn.stdout
    measured = python("-c", textwrap.dedent(CLAIM), tmp_path, **C_LOCALE)
    assert (measured.returncode, measured.stderr) == (0, "")
    assert "0.1 +- 0.2" in measured.stdout
    assert "0.1 ± 0.2" in (tmp_path / "claims.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"backend: nonsense\nno colon\nlines.linewidth: x\n", b"\xff"])
def test_a_broken_configuration_of_matplotlib_gives_no_traceback(reference, tmp_path, content):
    (tmp_path / "matplotlibrc").write_bytes(content)
    variables = {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "MPLCONFIGDIR": "/dev/null/nowhere"}
    drawn = python("-m", "experiments", "compare", "--plot-only", reference[0], **variables)
    assert drawn.returncode == (2 if content == b"\xff" else 0), drawn.stderr
    assert "Traceback" not in drawn.stderr


def write_to(stdout, command, reference):
    """Runs a command whose standard output nobody takes; returns the exit code and what it says of that."""
    words = command.split() + ([str(reference[0])] if command.endswith("only") else [])
    finished = subprocess.run(
        [sys.executable, "-m", "experiments", *words],
        cwd=ROOT,
        env=environment(PYTHONUNBUFFERED=""),
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=False,
    )
    return finished.returncode, finished.stderr.decode()


COMMANDS_THAT_WRITE = pytest.mark.parametrize("command", ["--help", "compare --help", "compare --plot-only"])


@pytest.mark.slow
@COMMANDS_THAT_WRITE
def test_a_closed_pipe_ends_a_command_quietly(reference, command):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        assert write_to(closed, command, reference) == (1, "")


@pytest.mark.slow
@COMMANDS_THAT_WRITE
def test_an_output_that_is_full_is_named(reference, command):
    with pathlib.Path("/dev/full").open("wb") as full:
        code, said = write_to(full, command, reference)
    assert (code, said) == (1, "error: cannot write to standard output: No space left on device\n")


def on_a_terminal(*arguments, **variables):
    """Runs Python with a terminal for its output; returns the exit code and what the terminal got."""
    ours, theirs = pty.openpty()
    got = b""
    with subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        with contextlib.suppress(OSError):  # how Linux says that nobody writes any more
            while more := os.read(ours, 4096):
                got += more
    os.close(ours)
    return process.returncode, got.decode()


@pytest.mark.slow
@pytest.mark.parametrize("terminal", ["dumb", "xterm"])
def test_a_poor_and_narrow_terminal_is_enough(tmp_path, terminal):
    variables = {"TERM": terminal, "NO_COLOR": "1", "COLUMNS": "20", "PYTHONIOENCODING": "ascii"}
    command = "compare --task diabetes-ridge --optimizers lion --steps 20 --rates 2 --rounds 1 --seeds 2"
    code, got = on_a_terminal("-m", "experiments", *command.split(), "--out", tmp_path, **variables)
    assert code == 0, got
    assert got.isascii()
    assert ("\x1b" in got) == (terminal == "xterm")
    assert ("20/20 steps" in " ".join(got.split())) == (terminal == "dumb")


@pytest.fixture
def signals_end():
    """Processes that a test starts do not ignore signals, even where the tests themselves run in the background."""
    numbers = signal.SIGINT, signal.SIGTERM
    before = [signal.signal(number, signal.SIG_DFL) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@contextlib.contextmanager
def started(*arguments, **options):
    """Starts Python, and kills it at the end where it still runs: a test that fails must not wait for it."""
    with subprocess.Popen(
        [sys.executable, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, text=True, **options
    ) as process:
        try:
            yield process
        finally:
            process.kill()


# Holds on where Python raises an exception for a signal.
STUBBORN = """
    import time
    from experiments import interruption

    interruption.watch()
    print("ready", flush=True)
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass
"""


@pytest.mark.usefixtures("signals_end")
@pytest.mark.parametrize(
    ("number", "code", "message"),
    [(signal.SIGINT, 130, "interrupted; what is finished is kept\n"), (signal.SIGTERM, 143, "")],
)
def test_signals_end_the_process_whatever_it_does(number, code, message):
    with started("-c", textwrap.dedent(STUBBORN), stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (code, message)


@pytest.mark.usefixtures("signals_end")
def test_signals_that_whoever_starts_it_ignores_stay_ignored():
    start = "import os, signal, sys; signal.signal(2, signal.SIG_IGN); os.execv(sys.executable, sys.argv[1:])"
    with started("-c", start, "python", "-c", textwrap.dedent(STUBBORN)) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 143


BARS = """
    import os, signal
    from experiments import interruption
    from optkit.comparison.progress import Progress
    from optkit.comparison.terminal import Terminal

    interruption.watch()
    with Progress(Terminal(), 100) as progress, progress.optimizer("lion") as show:
        show(10, 0.5)
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()
"""


@pytest.mark.usefixtures("signals_end")
def test_a_terminal_has_its_cursor_after_an_interruption():
    code, got = on_a_terminal("-c", textwrap.dedent(BARS), TERM="xterm")
    assert code == 130
    assert got.endswith("\ninterrupted; what is finished is kept\r\n")
    assert got.rindex("\x1b[?25h") > got.rindex("\x1b[?25l")


def imports(folder, lines):
    del folder
    assert lines.readline() == "watching\n"
    time.sleep(0.3)


def training(folder, lines):
    del folder
    next(line for line in lines if "results go to" in line)


def saving(folder, lines):
    del lines
    while not (folder / "checkpoint.json").exists():
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.usefixtures("signals_end")
def test_a_signal_ends_a_run_at_any_moment_and_it_continues(reference, tmp_path):
    folders = []
    for moment, number, code, message in (
        (imports, signal.SIGINT, 130, "interrupted; the same command continues\n"),
        (training, signal.SIGINT, 130, "interrupted; the same command continues\n"),
        (saving, signal.SIGINT, 130, "interrupted; the same command continues\n"),
        (saving, signal.SIGTERM, 143, ""),
    ):
        folder = tmp_path / f"{moment.__name__} {number.name}"
        command = ("-c", textwrap.dedent(OFTEN_SAVED), *SMALL, "--out", folder)
        with started(*command, env=environment(), stderr=subprocess.PIPE) as process:
            moment(folder, process.stdout)
            process.send_signal(number)
            process.send_signal(number)
            _, error = process.communicate(timeout=60)
        assert (process.returncode, error) == (code, message), folder
        folders.append(folder)
    last = python("-c", textwrap.dedent(CONTINUED), json.dumps([str(folder) for folder in folders]), *SMALL)
    assert last.returncode == 0, last.stderr
    for folder in folders:
        assert numbers(folder) == numbers(reference[0]), folder


def test_a_second_run_in_the_same_folder_is_refused_in_one_line(capsys, tmp_path):
    with RunFolder.locked(tmp_path):
        assert f"another run is writing to {tmp_path}" in refused(capsys, "compare", "--out", str(tmp_path))


@pytest.mark.slow
def test_a_damaged_checkpoint_is_refused_in_one_line(reference, tmp_path):
    # Killed in the midst of it, with checkpoints at hand.
    assert killed_at([60], tmp_path) == [-signal.SIGKILL]
    index = json.loads((tmp_path / "checkpoint.json").read_text())
    checkpoint = tmp_path / "checkpoints" / index["path"]
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)
    outcome = python("-m", "experiments", *SMALL, "--out", tmp_path)
    assert outcome.returncode == 2
    assert outcome.stderr.startswith("error: the checkpoint")
    assert outcome.stderr.count("\n") == 1
    (tmp_path / "checkpoint.json").unlink()  # as the message says
    assert python("-m", "experiments", *SMALL, "--out", tmp_path).returncode == 0
    assert numbers(tmp_path) == numbers(reference[0])


@pytest.mark.slow
def test_a_whole_grid_costs_much_less_than_its_trainings_one_by_one(capsys, monkeypatch):
    # The printed ratio is about 3 on two free cores; eighteen single trainings would make 18.
    monkeypatch.setattr(sweep, "STEPS", 300)
    assert command_line.execute(command_line.parser().parse_args(["bench", "sweep"])) == 0
    printed = capsys.readouterr().out
    assert 0 < float(printed.split("ratio ")[1]) < 12
