"""Sets the devices and caches of the tests, in this one place, and makes tests of the code in the Markdown files."""

import collections
import gc
import importlib.metadata
import os

DEVICES = 8
# How many programs a process keeps within a module, and from one to the next: one that kept all, and the data that they
# close over, would come to hold 5 GB.
MOST_PROGRAMS = 1_000
MOST_PROGRAMS_BETWEEN_MODULES = 250
# Most of the time goes into compiling programs that run once; these, as in `optkit.testing.case`, quarter it. Where
# each of a chain of operations uses the last one twice or more, the older way to emit fusions computes all of it anew
# each time: a test that hangs has twenty of them outside a loop.
_FAST_TO_COMPILE = ["--xla_backend_optimization_level=0"]
if importlib.metadata.version("jaxlib").startswith("0.10."):
    _FAST_TO_COMPILE += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
_FLAGS = [os.environ.get("XLA_FLAGS", ""), *_FAST_TO_COMPILE, f"--xla_force_host_platform_device_count={DEVICES}"]
os.environ["XLA_FLAGS"] = " ".join(_FLAGS).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# As for `python -m experiments`, whose `share_out_threads` says why.
os.environ.setdefault("NPROC", str(8 * (os.cpu_count() or 1)))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax  # noqa: E402  (XLA reads its flags when JAX starts)
import pytest  # noqa: E402
from sybil import Sybil  # noqa: E402
from sybil.integration.pytest import SybilItem  # noqa: E402
from sybil.parsers.markdown import PythonCodeBlockParser  # noqa: E402

from optkit.testing import golden  # noqa: E402

# Where in the source each operation of a program stands takes a twentieth of the time, and no test reads it.
jax.config.update("jax_traceback_in_locations_limit", 0)

# Tracing makes many objects that live for long; Python's garbage collector would look at all of them again and again.
gc.set_threshold(100_000, 20, 100)

# What JAX has done since programs were last freed, by the name of the event.
_events = collections.Counter()
jax.monitoring.register_event_duration_secs_listener(lambda event, _, **__: _events.update([event]))


def pytest_addoption(parser):
    """Adds an option."""
    parser.addoption("--keep-programs", action="store_true", help="keep compiled programs in .cache/ for the next run")


def pytest_configure(config):
    """Keeps compiled programs where that was asked for."""
    # Not always: JAX 0.10 crashes in a few programs with collectives (the contract of MASHA) when it reads them back.
    if config.getoption("--keep-programs"):
        jax.config.update("jax_compilation_cache_dir", str(config.rootpath / ".cache" / "jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


pytest_collect_file = Sybil(parsers=[PythonCodeBlockParser()], patterns=["*.md"]).pytest()


@pytest.hookimpl(trylast=True)
def pytest_runtest_setup(item):
    """Runs what stands before a block of code in its document, where another process has run that."""
    if isinstance(item, SybilItem):
        ran = item.example.namespace.setdefault("__ran__", set())
        for example in item.example.document:
            if example.line < item.example.line and example.line not in ran:
                example.evaluate()
                ran.add(example.line)
        ran.add(item.example.line)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item, nextitem):
    """Frees compiled programs once there are many. Until then tests share those of small operations."""
    yield
    is_last = nextitem is None or nextitem.path != item.path
    most = MOST_PROGRAMS_BETWEEN_MODULES if is_last else MOST_PROGRAMS
    if _events["/jax/core/compile/backend_compile_duration"] > most:
        jax.clear_caches()
        gc.collect()
        _events.clear()


@pytest.fixture
def x64():
    """Runs a test in double precision."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def recording(request):
    """The golden file that a test replays; see `golden_files.replays`."""
    return golden.read(request.param)
