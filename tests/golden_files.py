"""Which golden files a test replays."""

import ast
import os
import pathlib

import pytest

from optkit.testing import golden

TESTS = pathlib.Path(__file__).parent
FOLDER = pathlib.Path(os.environ.get("OPTKIT_GOLDEN", TESTS / "golden"))


def files(method):
    return sorted(FOLDER.glob(f"{method}__*.npz"))


def replays(*methods):
    """Runs a test once for every golden file of the methods, in double precision, as its argument `recording`.

    Without such a file there is no test.
    """
    parameters = [pytest.param(path, id=path.stem) for method in methods for path in files(method)]

    def decorate(test):
        if not parameters:
            return None
        return pytest.mark.usefixtures("x64")(pytest.mark.parametrize("recording", parameters, indirect=True)(test))

    return decorate


def claimed_methods():
    """The methods named in any `@replays(...)` of the test-suite."""
    calls = (
        node
        for path in TESTS.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "replays"
    )
    return {argument.value for call in calls for argument in call.args}


def assert_replays(recording, trajectory):
    """Fails unless a trajectory is the recorded one, within the file's own tolerance."""
    deviation = golden.deviation(trajectory, recording.tree("params"))
    assert deviation <= recording.meta["rtol"], f"{recording.name} deviates by {deviation:.2e}"
