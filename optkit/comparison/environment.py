"""The conditions under which results were made: versions, source code and machine."""

import hashlib
import importlib.metadata
import os
import pathlib
import platform
from types import ModuleType
from typing import Any

import jax

import optkit

_PACKAGES = ("jax", "jaxlib", "optax", "flax", "numpy", "scikit-learn")


def versions(*packages: ModuleType) -> dict[str, str]:
    """Returns the versions of Python and of what shapes results, and a digest of source code.

    Args:
        *packages: packages beside optkit whose source is part of the digest.
    """
    source = hashlib.sha256()
    for package in (optkit, *packages):
        folder = pathlib.Path(str(package.__file__)).parent
        for file in sorted(folder.rglob("*.py")):
            source.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
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


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
