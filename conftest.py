"""Sets the devices of the tests, in this one place, and makes tests of the code blocks in the Markdown files."""

import os

DEVICES = 8
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={DEVICES}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# As for `python -m experiments`, whose `share_out_threads` says why.
os.environ.setdefault("NPROC", str(8 * (os.cpu_count() or 1)))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax  # noqa: E402  (XLA reads its flags when JAX starts)
import pytest  # noqa: E402
from sybil import Sybil  # noqa: E402
from sybil.parsers.markdown import PythonCodeBlockParser  # noqa: E402

from optkit.testing import golden  # noqa: E402

pytest_collect_file = Sybil(parsers=[PythonCodeBlockParser()], patterns=["*.md"]).pytest()


@pytest.fixture
def x64():
    """Runs a test in double precision."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def recording(request):
    """The golden file that a test replays; see `golden_files.replays`."""
    return golden.read(request.param)
