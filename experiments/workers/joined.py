"""Processes that train as one: the first one writes and shows, and all do the same in the same order."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from optkit.comparison.records import Kind, Record
from optkit.comparison.store import RunFolder


class _Read(RunFolder):
    """A run's folder that another process holds: this one remembers what that one writes."""

    def replace(self, records: list[Record]) -> None:
        self.records = records

    def save(self, unit: str, progress: int, tree: Any) -> None:
        del unit, progress, tree

    def clear(self) -> None:
        pass

    def _remove_all_but(self, name):
        del name


@contextlib.contextmanager
def run_folder(folder: pathlib.Path, kind: Kind) -> Iterator[RunFolder]:
    """Holds a run's folder; where several processes train as one, the first one holds it.

    Args:
        folder: its path.
        kind: the kind of run.

    Yields:
        The folder, which only the process that holds it writes.
    """
    if is_first():
        with RunFolder.locked(folder, kind) as held:
            _wait("the folder is held")
            yield held
    else:
        _wait("the folder is held")
        yield _Read(folder, kind)


def is_first() -> bool:
    """Says whether this process writes and shows."""
    return jax.process_index() == 0


def agreed(wish: bool) -> bool:
    """Returns what the first process wishes."""
    if jax.process_count() == 1:
        return wish
    return bool(multihost_utils.broadcast_one_to_all(np.array(wish)))


def gathered(tree: Any) -> Any:
    """Returns a tree in which each array is whole in every process."""

    def whole(x):
        if not isinstance(x, jax.Array) or x.is_fully_addressable:
            return x
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(whole, tree)


def _wait(what: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)
