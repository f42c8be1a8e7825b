"""The conditions under which results were made: versions, source code and machine."""

import hashlib
import importlib.metadata
import os
import pathlib
import platform
from typing import Any

import jax

import optkit

PACKAGES = ("jax", "jaxlib", "optax", "flax", "numpy", "scikit-learn")


def versions() -> dict[str, str]:
    """Returns the versions of Python and of what shapes results, and a digest of this project's source."""
    source = hashlib.sha256()
    for package in (optkit.__file__, __file__):
        folder = pathlib.Path(package).parent
        for file in sorted(folder.rglob("*.py")):
            source.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return {
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in PACKAGES},
        "source": source.hexdigest(),
    }


def hardware() -> dict[str, Any]:
    """Returns what this machine is."""
    devices = jax.devices()
    return {
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "processors": os.cpu_count(),
        "platform": platform.platform(),
    }
