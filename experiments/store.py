"""A run's folder: results, and progress that survives being killed at any point."""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments.errors import UserError

Record = dict[str, Any]
HEADER = {"settings", "data", "versions", "hardware"}


def read_records(folder: pathlib.Path) -> list[Record]:
    """Reads the results of a run.

    Args:
        folder: the run's folder.

    Returns:
        The lines of its `results.jsonl`; none where nothing has been written yet.

    Raises:
        UserError: if the file is not what a run wrote.
    """
    file = folder / "results.jsonl"
    try:
        records = [json.loads(line) for line in file.read_text().splitlines()]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {_one_line(error)}") from error
    if not records or not isinstance(records[0], dict) or not records[0].keys() >= HEADER:
        raise UserError(f"{file} is not the result of a comparison")
    return records


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
        self._checkpointer = ocp.Checkpointer(ocp.StandardCheckpointHandler())
        self.records: list[Record] = read_records(folder)

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
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / "lock").open("w")
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror}") from error
        with lock:
            try:
                # The kernel lets go of it when the process ends, however it ends.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"another run is writing to {folder}; wait for it, or choose another --out") from error
            yield cls(folder)

    def append(self, records: list[Record]) -> None:
        """Adds results: all of them or, when killed meanwhile, none.

        Args:
            records: what `json` can write; numbers that are not finite become null.
        """
        self.records += [_finite(record) for record in records]
        text = "".join(json.dumps(record, allow_nan=False) + "\n" for record in self.records)
        self._replace(self._folder / "results.jsonl", text)

    def save(self, unit: str, progress: int, tree: Any) -> None:
        """Saves a checkpoint in place of the last one.

        Args:
            unit: what is being trained.
            progress: how far.
            tree: arrays.
        """
        path = self._checkpoints / f"{unit}-{progress}".replace(":", "-")
        with writing(path):
            # Leaves by number, since restoring needs the caller's tree anyway and Orbax knows few kinds of nodes.
            leaves = {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
            self._checkpointer.save(path.absolute(), args=ocp.args.StandardSave(leaves), force=True)
        index = {"unit": unit, "progress": progress, "path": path.name, "sha256": _digest(path)}
        self._replace(self._index, json.dumps(index))
        for other in self._checkpoints.iterdir():
            if other != path:
                shutil.rmtree(other)

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
        # Checked before Orbax reads it, whose own errors come late, in other threads, or not at all.
        if not path.is_dir() or _digest(path) != index["sha256"]:
            raise self._damaged(path)
        leaves, structure = jax.tree.flatten(like)
        template = {str(i): np.zeros(leaf.shape, leaf.dtype) for i, leaf in enumerate(leaves)}
        restored = self._checkpointer.restore(path.absolute(), args=ocp.args.StandardRestore(template))
        return structure.unflatten(restored[str(i)] for i in range(len(leaves)))

    def clear(self) -> None:
        """Forgets the last checkpoint."""
        self._index.unlink(missing_ok=True)
        if self._checkpoints.exists():
            shutil.rmtree(self._checkpoints)

    def _read_index(self):
        try:
            index = json.loads(self._index.read_text())
            return {key: index[key] for key in ("unit", "progress", "path", "sha256")}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(self._index) from error

    def _damaged(self, path):
        return UserError(f"the checkpoint {path} is damaged; delete {self._index} to train that part again")

    def _replace(self, path, text):
        draft = path.with_name(path.name + ".draft")
        with writing(path):
            with draft.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)


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
        raise UserError(f"cannot write {path}: {_one_line(error)}") from error


def _one_line(error):
    return " ".join(str(error).split())


def _digest(folder):
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            digest.update(
                file.relative_to(folder).as_posix().encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest()
            )
    return digest.hexdigest()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value if not isinstance(value, float) or np.isfinite(value) else None
