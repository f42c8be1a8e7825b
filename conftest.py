"""The one place where the tests' devices are set."""

import os

DEVICES = 8
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={DEVICES}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402  (XLA reads its flags when JAX starts)
import pytest  # noqa: E402

from optkit.testing import golden  # noqa: E402


@pytest.fixture
def x64():
    """Runs a test in double precision."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def recording(request):
    """The golden file that a test replays; see `golden_files.replays`."""
    return golden.read(request.param)
