"""How the package is built: imports run downwards, importing costs little, and what is public is listed."""

import ast
import dataclasses
import functools
import inspect
import operator
import pathlib
import re
import subprocess
import sys

import networkx as nx
import pytest

import optkit
from optkit.catalog import METHODS
from optkit.core.extra_args import EXTRA_ARGS
from optkit.method import Method

ROOT = pathlib.Path(optkit.__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("optkit", "experiments")
    for path in (ROOT / package).rglob("*.py")
}
# From the ground up; a module stands on the floor of the longest of these that its name starts with.
FLOORS = (
    ("optkit.core.",),
    ("optkit.method.",),
    ("optkit.compressors.", "optkit.prox.", "optkit.linalg.", "optkit._tools.", "optkit.testing."),
    ("optkit.",),
    ("optkit.catalog.", "optkit.typing."),
    ("optkit.comparison.",),
    ("experiments.",),
)
NAMESPACES = ("topology", "compressors", "feedback", "prox", "median_step", "kappa", "attacks", "linalg")
FAMILIES = sorted({method.family for method in METHODS.values()} - {"_tools", "prox", "linalg"})
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "notebooks").glob("*.ipynb"))]


def floor(module):
    numbers = {start: number for number, starts in enumerate(FLOORS) for start in starts}
    return numbers[max((start for start in numbers if f"{module}.".startswith(start)), key=len)]


@functools.cache
def imports(module):
    """The modules that a module imports, at its top or in functions, but not for the type checker alone."""
    tree = ast.parse(MODULES[module].read_text())
    tests = (node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    skipped = {id(node) for test in tests for node in ast.walk(test)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        if isinstance(node, ast.ImportFrom) and id(node) not in skipped:
            # Relative imports stand in the lists of families only, and name a module of the same folder.
            assert node.level <= (MODULES[module].name == "__init__.py"), f"{module} has a relative import"
            start = ".".join(filter(None, (module if node.level else None, node.module)))
            names = {f"{start}.{name.name}" for name in node.names}
            found |= {name if name in MODULES else start for name in names}
    return {name for name in found if name in MODULES and name != module}


@pytest.mark.slow
def test_imports_run_downwards():
    upwards = [
        f"{module} imports {imported}"
        for module in MODULES
        if module != "optkit"
        for imported in imports(module)
        if floor(imported) > floor(module)
    ]
    assert upwards == []


def test_no_modules_import_each_other():
    modules = [module for module in MODULES if module != "optkit"]
    graph = nx.DiGraph((module, imported) for module in modules for imported in imports(module))
    assert list(nx.simple_cycles(graph)) == []


def test_families_import_each_other_in_one_direction():
    def room(module):
        return ".".join(module.split(".")[:2])

    pairs = {(room(module), room(imported)) for module in MODULES for imported in imports(module)}
    graph = nx.DiGraph((first, second) for first, second in pairs if first != second and first.startswith("optkit."))
    assert list(nx.simple_cycles(graph)) == []


def test_modules_of_families_are_private():
    public = {
        f"{family}/{path.name}"
        for family in FAMILIES
        for path in (ROOT / "optkit" / family).iterdir()
        if not path.name.startswith("_")
    }
    assert public == {
        "decentralized/topology",
        "median_clipping/median_step.py",
        "communication/feedback.py",
        "robust_aggregation/attacks",
        "sign_momentum/kappa.py",
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_imports_and_one_list(family):
    *imports, methods = ast.parse(MODULES[f"optkit.{family}"].read_text()).body[1:]
    assert all(isinstance(node, ast.ImportFrom) for node in imports)
    assert ast.unparse(methods).startswith("METHODS = methods_of(")


@pytest.mark.slow
def test_importing_costs_little():
    code = (
        "import sys, optkit; from jax._src import xla_bridge; assert not xla_bridge.backends_are_initialized();"
        "print(*(name for name in ('networkx', 'flax', 'sklearn', 'matplotlib', 'rich', 'optkit.testing',"
        " 'optkit.comparison', 'experiments') if name in sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.strip() == ""


def test_the_package_knows_its_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", optkit.__version__)


def names_of(namespace):
    if hasattr(namespace, "__all__"):
        return namespace.__all__
    own = [
        name
        for name, thing in vars(namespace).items()
        if getattr(thing, "__module__", "").startswith(namespace.__name__)
    ]
    return [name for name in own if not name.startswith("_")]


def public():
    """Every public function, by its name below `optkit`."""
    names = {name for name in dir(optkit) if not name.startswith("_")}
    names |= {f"{space}.{name}" for space in NAMESPACES for name in names_of(getattr(optkit, space))}
    things = {name: operator.attrgetter(name)(optkit) for name in names}
    return {name: thing for name, thing in things.items() if inspect.isroutine(thing)}


def test_every_public_function_is_listed():
    listed = {id(thing) for method in METHODS.values() for thing in (method.factory, *method.parts)}
    # The catalog stands below it, and does not import it.
    listed.add(id(optkit.compare))
    assert sorted(name for name, thing in public().items() if id(thing) not in listed) == []


def test_no_public_function_has_more_than_14_parameters():
    counts = {name: len(inspect.signature(thing).parameters) for name, thing in public().items()}
    assert {name: count for name, count in counts.items() if count > 14} == {}


def test_every_list_of_a_module_is_gathered():
    modules = [sys.modules[name] for name in MODULES if name.startswith("optkit.") and name in sys.modules]
    listed = {
        method.name for module in modules if module is not optkit.catalog for method in getattr(module, "METHODS", ())
    }
    assert listed == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_listed_name_is_public_and_means_the_thing_itself(name):
    assert operator.attrgetter(name)(optkit) is METHODS[name].factory


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_names_in_documents_exist(path):
    missing = []
    for name in sorted(set(re.findall(r"\boptkit((?:\.[A-Za-z]\w*)+)", path.read_text()))):
        try:
            operator.attrgetter(name[1:])(optkit)
        except AttributeError:
            if f"optkit{name}" not in MODULES:
                missing.append(f"optkit{name}")
    assert missing == []


# Words of JAX, Optax and the shell that stand in the prose of the documents like names of ours.
FOREIGN = {"init", "jit", "make", "out_shardings", "scan", "shard_map", "update", "vmap"}


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path.suffix == ".md"], ids=lambda path: path.name)
def test_words_of_the_prose_that_look_like_names_exist(path):
    prose = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    words = {
        word for word in re.findall(r"`([a-z_][\w.]*)(?:\([^`]*\))?`", prose) if not word.endswith((".py", ".npz"))
    }
    arguments = {name for thing in public().values() for name in inspect.signature(thing).parameters}
    fields = {field.name for field in dataclasses.fields(Method)}
    known = {*FOREIGN, *arguments, *fields, *EXTRA_ARGS, *public(), *METHODS, *dir(optkit), *dir(optkit.method)}
    unknown = {
        word for word in words if word not in known and word.split(".")[0] not in {"jax", "optax", "nnx", "optkit"}
    }
    assert unknown == set()
