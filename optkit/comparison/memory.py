"""How much memory a program needs, and how much there is."""

import os
import pathlib

import jax
import numpy as np

# Of what there is, so much may be used; the rest is for data, evaluation and whoever else computes here.
SHARE = 0.5
_CONTAINER = pathlib.Path("/sys/fs/cgroup/memory.max")


def needed(program: jax.stages.Compiled) -> int:
    """Returns how many bytes a program needs on each device, or 0 if the compiler does not report it."""
    found = program.memory_analysis()
    if found is None:
        return 0
    sizes = (found.argument_size_in_bytes, found.output_size_in_bytes, found.temp_size_in_bytes)
    return sum(sizes) - found.alias_size_in_bytes


def available(devices: np.ndarray) -> float:
    """Returns how many bytes a program may use on each of some devices."""
    statistics = devices.flat[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return SHARE * statistics["bytes_limit"]
    # The devices of the CPU share its memory.
    return SHARE * _memory() / devices.size


def _memory() -> float:
    """Bytes of memory that this machine has, or that its container may use."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _CONTAINER.read_text().strip() if _CONTAINER.is_file() else "max"
    return total if limit == "max" else min(total, int(limit))
