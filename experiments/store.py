"""The folder of a run: its results, and its progress, which survives if the process is killed at any point."""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from experiments.errors import UserError, one_line
from experiments.records import TEXT, Record, integer, object_of, read_json, read_records

_CHECKPOINT = object_of(unit=TEXT, progress=integer(), path=TEXT, sha256=TEXT)


class RunFolder:
    """One run's folder, held by one process at a time.

    Everything is written beside its place and moved there, and a checkpoint counts only once `checkpoint.json` names
    it, so that a process killed at any point leaves a folder from which the next one continues.

    Attributes:
        records: the results so far.
    """

    def __init__(self, folder: pathlib.Path):
        """Opens the folder, which `locked` has made.

        Args:
            folder: its path.
        """
        self._folder = folder
        self._index = folder / "checkpoint.json"
        self._checkpoints = folder / "checkpoints"
        self.records: list[Record] = read_records(folder)
        self._remove_all_but(self._read_index().get("path"))

    @classmethod
    @contextlib.contextmanager
    def locked(cls, folder: pathlib.Path) -> Iterator["RunFolder"]:
        """Makes the folder where there is none and holds it.

        Args:
            folder: its path.

        Yields:
            The folder.

        Raises:
            UserError: if it cannot be written, or another run holds it.
        """
        with hold(folder, wait=False):
            yield cls(folder)

    def append(self, records: list[Record]) -> None:
        """Adds results: all of them or, when killed meanwhile, none.

        Args:
            records: what `json` can write; numbers that are not finite become null.
        """
        self.records += [_finite(record) for record in records]
        text = "".join(json.dumps(record, allow_nan=False) + "\n" for record in self.records)
        write(self._folder / "results.jsonl", text)

    def save(self, unit: str, progress: int, tree: Any) -> None:
        """Saves a checkpoint in place of the last one.

        Args:
            unit: what is being trained.
            progress: how far.
            tree: arrays.
        """
        path = self._checkpoints / _name(unit, progress)
        with writing(path):
            self._checkpoints.mkdir(exist_ok=True)
        content = io.BytesIO()
        np.savez(content, *map(np.asarray, jax.tree.leaves(tree)))
        write(path, content.getvalue())
        digest = hashlib.sha256(content.getvalue()).hexdigest()
        write(self._index, json.dumps({"unit": unit, "progress": progress, "path": path.name, "sha256": digest}))
        self._remove_all_but(path.name)

    def progress(self, unit: str) -> int | None:
        """Returns how far the last checkpoint of `unit` got, None where there is none.

        Args:
            unit: what is being trained.

        Raises:
            UserError: if the checkpoint is damaged.
        """
        index = self._read_index()
        return index["progress"] if index and index["unit"] == unit else None

    def restore(self, like: Any) -> Any:
        """Reads the last checkpoint.

        Args:
            like: shapes and dtypes of the tree that was saved.

        Returns:
            The tree, of NumPy arrays.

        Raises:
            UserError: if the checkpoint is damaged.
        """
        index = self._read_index()
        path = self._checkpoints / index["path"]
        try:
            content = path.read_bytes()
        except OSError as error:
            raise self._damaged(path) from error
        if hashlib.sha256(content).hexdigest() != index["sha256"]:
            raise self._damaged(path)
        leaves, structure = jax.tree.flatten(like)
        with np.load(io.BytesIO(content)) as arrays:
            # NumPy forgets what it does not know, such as bfloat16.
            return structure.unflatten(arrays[f"arr_{i}"].view(leaf.dtype) for i, leaf in enumerate(leaves))

    def clear(self) -> None:
        """Forgets the last checkpoint."""
        self._index.unlink(missing_ok=True)
        if self._checkpoints.exists():
            shutil.rmtree(self._checkpoints)

    def _remove_all_but(self, name):
        """Removes old checkpoints, and those that were cut short."""
        if self._checkpoints.exists():
            for other in self._checkpoints.iterdir():
                if other.is_dir():  # as Orbax wrote them until 2026
                    shutil.rmtree(other)
                elif other.name != name:
                    other.unlink()

    def _read_index(self):
        index = read_json(self._index, _CHECKPOINT) or {}
        if index and index["path"] != _name(index["unit"], index["progress"]):
            raise self._damaged(self._index)
        return index

    def _damaged(self, path):
        return UserError(f"the checkpoint {path} is damaged; delete {self._index} to train that part again")


@contextlib.contextmanager
def hold(folder: pathlib.Path, *, wait: bool) -> Iterator[None]:
    """Makes a folder where there is none, and holds it against other processes that would write there.

    Args:
        folder: its path.
        wait: whether to wait for another process that holds it.

    Yields:
        Nothing.

    Raises:
        UserError: if it cannot be written, or another process holds it and this one does not wait.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
    with lock:
        try:
            # The kernel lets go of it when the process ends, however it ends.
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another run is writing to {folder}; wait for it, or choose another --out") from error
        yield


def write(file: pathlib.Path, content: str | bytes) -> None:
    """Writes a file, and leaves the old one as it is if the process is killed or the disk is full.

    Args:
        file: its path.
        content: all of it.

    Raises:
        UserError: if it cannot be written.
    """
    draft = file.with_name(f"{file.name}.draft")
    with writing(file):
        try:
            with draft.open("wb") as stream:
                stream.write(content.encode() if isinstance(content, str) else content)
                stream.flush()
                os.fsync(stream.fileno())
            draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_results(file: pathlib.Path, content: Any, page: str) -> None:
    """Writes results into a folder that the caller holds.

    Args:
        file: where they go as JSON.
        content: what `json` can write.
        page: the same in words, which goes into a `.md` file beside it.

    Raises:
        UserError: if a file cannot be written.
    """
    write(file, json.dumps(content, indent=1) + "\n")
    write(file.with_suffix(".md"), page)


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Reports what goes wrong with the file system as the user's to put right.

    Args:
        path: what is written.

    Yields:
        Nothing.

    Raises:
        UserError: in place of an `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {one_line(error)}") from error


def _name(unit, progress):
    return f"{unit}-{progress}.npz".replace(":", "-")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value if not isinstance(value, float) or np.isfinite(value) else None
