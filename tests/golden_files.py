"""Which golden files a test replays."""

import ast
import functools
import os
import pathlib

import pytest

from optkit.testing import golden

TESTS = pathlib.Path(__file__).parent
OWN_FOLDER = TESTS / "golden"
FOLDER = pathlib.Path(os.environ.get("OPTKIT_GOLDEN", OWN_FOLDER))


def files(method):
    return sorted(FOLDER.glob(f"{method}__*.npz"))


def all_are_there():
    """Whether the files are those of this repository, where every method that a test names has one."""
    return FOLDER.resolve() == OWN_FOLDER.resolve()


def replays(*methods):
    """Runs a test once for every golden file of the methods, in double precision, as its argument `recording`.

    The test fails if it has not read all hyperparameters of the recording. Without such a file there is no test, which
    is an error unless the files come from another folder.
    """
    missing = [method for method in methods if not files(method)]
    if missing and all_are_there():
        raise ValueError(f"@replays names methods without a file in {FOLDER}: {', '.join(missing)}")
    parameters = [pytest.param(path, id=path.stem) for method in methods for path in files(method)]

    def decorate(test):
        if not parameters:
            return None

        @functools.wraps(test)
        def replay(recording, **fixtures):
            test(recording=recording, **fixtures)
            recording.hyperparams.refuse_unread()

        return pytest.mark.usefixtures("x64")(pytest.mark.parametrize("recording", parameters, indirect=True)(replay))

    return decorate


def claimed_methods():
    """The methods named in the `@replays(...)` of the test-suite's tests, and nowhere else."""
    return {
        argument.value
        for path in TESTS.rglob("test_*.py")
        for test in ast.parse(path.read_text()).body
        if isinstance(test, ast.FunctionDef) and test.name.startswith("test_") and "golden" in test.name
        for call in test.decorator_list
        if isinstance(call, ast.Call) and getattr(call.func, "id", None) == "replays"
        for argument in call.args
    }


def assert_replays(recording, trajectory, group="params"):
    """Fails unless all hyperparameters were read and arrays are the recorded ones, within the file's own tolerance."""
    recording.hyperparams.refuse_unread()
    expected = recording.arrays[group] if group in recording.arrays else recording.tree(group)
    deviation = golden.deviation(trajectory, expected)
    assert deviation <= recording.meta["rtol"], f"{group} of {recording.name} deviates by {deviation:.2e}"
