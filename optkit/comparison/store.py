"""The folder of a run: its results, and its progress, which survives if the process is killed at any point."""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import pathlib
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any
from urllib import parse

import jax
import jax.numpy as jnp
import numpy as np

from optkit.comparison.errors import ComparisonError, one_line
from optkit.comparison.records import TEXT, Kind, Record, integer, object_of, read_json, read_records, with_null

_CHECKPOINT = object_of(unit=TEXT, progress=integer(), path=TEXT, sha256=TEXT)


class RunFolder:
    """One run's folder, held by one process at a time.

    Everything is written beside its place and moved there, and a checkpoint counts only once `checkpoint.json` names
    it, so that a process killed at any point leaves a folder from which the next one continues.

    Attributes:
        path: Its path.
        records: The results so far.
    """

    def __init__(self, folder: pathlib.Path, *kinds: Kind):
        """Opens the folder, which `locked` has made.

        Args:
            folder: Its path.
            *kinds: The kinds of runs whose results it may hold.
        """
        self.path = folder
        self._index = folder / "checkpoint.json"
        self._checkpoints = folder / "checkpoints"
        self.records: list[Record] = read_records(folder, *kinds)
        self._remove_all_but(self._read_index().get("path"))

    @classmethod
    @contextlib.contextmanager
    def locked(cls, folder: pathlib.Path, *kinds: Kind) -> Iterator["RunFolder"]:
        """Makes the folder where there is none and holds it.

        Args:
            folder: Its path.
            *kinds: The kinds of runs whose results it may hold.

        Yields:
            The folder.

        Raises:
            ComparisonError: If it cannot be written, or another run holds it.
        """
        with hold(folder, wait=False):
            yield cls(folder, *kinds)

    def append(self, records: list[Record]) -> None:
        """Adds results: all of them or, when killed meanwhile, none.

        Args:
            records: What `json` can write; numbers that are not finite become null.
        """
        self.replace([*self.records, *map(with_null, records)])

    def replace(self, records: list[Record]) -> None:
        """Writes results in place of those that there are: all of them or, when killed meanwhile, none.

        Args:
            records: What `json` can write.
        """
        write(self.path / "results.jsonl", "".join(json.dumps(record, allow_nan=False) + "\n" for record in records))
        self.records = records

    def save_examples(self, optimizer: str, unit: str, keys: Sequence[tuple[float, ...]], losses: np.ndarray) -> None:
        """Saves the test losses of some trainings on each example, for `read_examples`.

        Args:
            optimizer: The optimizer's name.
            unit: What was trained.
            keys: The learning rate, other tuned hyperparameters, and the seed of each training.
            losses: The losses, `(trainings, examples)`.
        """
        path = _examples(self.path, optimizer) / f"{unit}.npz"
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        np.savez(content, keys=np.asarray(keys), losses=np.asarray(losses, np.float32))
        write(path, content.getvalue())

    def save(self, unit: str, progress: int, tree: Any) -> None:
        """Saves a checkpoint in place of the last one.

        Args:
            unit: What is being trained.
            progress: How far.
            tree: Arrays.
        """
        path = self._checkpoints / _name(unit, progress)
        with writing(path):
            self._checkpoints.mkdir(exist_ok=True)
        content = io.BytesIO()
        np.savez(content, *map(_plain, jax.tree.leaves(tree)))
        write(path, content.getvalue())
        digest = hashlib.sha256(content.getvalue()).hexdigest()
        write(self._index, json.dumps({"unit": unit, "progress": progress, "path": path.name, "sha256": digest}))
        self._remove_all_but(path.name)

    def progress(self, unit: str) -> int | None:
        """Returns how far the last checkpoint of `unit` got, None where there is none.

        Args:
            unit: What is being trained.

        Raises:
            ComparisonError: If the checkpoint is damaged.
        """
        index = self._read_index()
        return index["progress"] if index and index["unit"] == unit else None

    def restore(self, like: Any) -> Any:
        """Reads the last checkpoint.

        Args:
            like: Shapes and dtypes of the tree that was saved.

        Returns:
            The tree, of NumPy arrays.

        Raises:
            ComparisonError: If the checkpoint is damaged.
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
            return structure.unflatten(_like(leaf, arrays[f"arr_{i}"]) for i, leaf in enumerate(leaves))

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
        return ComparisonError(f"the checkpoint {path} is damaged; delete {self._index} to train that part again")


@contextlib.contextmanager
def hold(folder: pathlib.Path, *, wait: bool) -> Iterator[None]:
    """Makes a folder where there is none, and holds it against other processes that would write there.

    Args:
        folder: Its path.
        wait: Whether to wait for another process that holds it.

    Yields:
        Nothing.

    Raises:
        ComparisonError: If it cannot be written, or another process holds it and this one does not wait.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise ComparisonError(f"cannot write to {folder}: {error.strerror}") from error
    with lock:
        try:
            # The kernel lets go of it when the process ends, however it ends.
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ComparisonError(
                f"another run is writing to {folder}; wait for it, or choose another folder"
            ) from error
        yield


def write(file: pathlib.Path, content: str | bytes) -> None:
    """Writes a file, and leaves the old one as it is if the process is killed or the disk is full.

    Args:
        file: Its path.
        content: All of it.

    Raises:
        ComparisonError: If it cannot be written.
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
        file: Where they go as JSON.
        content: What `json` can write.
        page: The same in words, which goes into a `.md` file beside it.

    Raises:
        ComparisonError: If a file cannot be written.
    """
    write(file, json.dumps(content, indent=1) + "\n")
    write(file.with_suffix(".md"), page)


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Reports what goes wrong with the file system as the user's to put right.

    Args:
        path: What is written.

    Yields:
        Nothing.

    Raises:
        ComparisonError: In place of an `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise ComparisonError(f"cannot write {path}: {one_line(error)}") from error


def read_examples(folder: pathlib.Path, optimizer: str) -> dict[tuple[float, ...], np.ndarray]:
    """Reads the test losses on each example of an optimizer's trainings.

    Args:
        folder: The run's folder.
        optimizer: Its name.

    Returns:
        The losses by learning rate, other tuned hyperparameters, and seed; of those trainings whose file is there and
        whole.
    """
    found = {}
    for file in sorted(_examples(folder, optimizer).glob("*.npz")):
        try:
            with np.load(file) as arrays:
                found |= dict(zip(map(tuple, arrays["keys"].tolist()), arrays["losses"], strict=True))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            continue
    return found


def _examples(folder, optimizer):
    return folder / "examples" / parse.quote(optimizer, safe="")


def _name(unit, progress):
    # Names of users' optimizers may hold anything.
    return f"{parse.quote(unit, safe='')}-{progress}.npz"


def _plain(leaf):
    """A leaf as an array that files can hold."""
    is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def _like(leaf, array):
    """The array of a file as the leaf in whose place it stood."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf))
    # NumPy forgets what it does not know, such as bfloat16.
    return array.view(leaf.dtype)
