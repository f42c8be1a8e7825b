import importlib
import inspect
import pathlib
import re
import subprocess
import sys

import pytest

import optkit
from optkit.catalog import METHODS, with_variants

ENTRIES = with_variants()
FAMILIES = {path.name for path in pathlib.Path(optkit.__file__).parent.iterdir() if (path / "__init__.py").exists()}


@pytest.mark.parametrize("name", ENTRIES)
def test_the_example_builds_something_usable(name):
    method = ENTRIES[name]
    assert callable(method.optimizer_factory(**method.arguments).update)


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_is_complete(name):
    method = ENTRIES[name]
    arguments = inspect.signature(method.optimizer_factory).parameters
    assert method.family in FAMILIES
    assert method.summary.endswith(".")
    assert re.fullmatch(r"\d{4}\.\d{4,5}", method.paper.arxiv)
    assert method.tuned in arguments
    assert method.tuned in method.arguments
    assert method.grid > 0
    assert {*method.arguments} <= set(arguments)
    assert [name for name, argument in arguments.items() if argument.annotation is argument.empty] == []


def test_names_are_unique():
    modules = (importlib.import_module(f"optkit.{name}") for name in FAMILIES)
    entries = [method for module in modules for method in getattr(module, "ENTRIES", ())]
    assert len(entries) == len({method.name for method in entries}) == len(METHODS)


def test_importing_starts_no_device():
    code = "import optkit; from jax._src import xla_bridge; assert not xla_bridge.backends_are_initialized()"
    subprocess.run([sys.executable, "-c", code], check=True)
