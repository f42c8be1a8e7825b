"""What a run's folder may rely on."""

import errno
import json
import math
import os
import pathlib
import subprocess
import sys
import textwrap

import chex
import ml_dtypes
import numpy as np
import pytest
import test_records

from experiments.workers.records import RUN
from optkit.comparison import ComparisonError, store
from optkit.comparison.records import read_records
from optkit.comparison.store import RunFolder

ROOT = pathlib.Path(store.__file__).parents[2]
TREE = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": (np.int32(3), np.ones(4)),
    "c": [np.arange(4, dtype=ml_dtypes.bfloat16), np.array(1.5, ml_dtypes.float8_e4m3fn), np.zeros((0, 3), bool)],
}


def test_results_are_json_without_infinities(tmp_path):
    with RunFolder.locked(tmp_path, RUN) as folder:
        header, first = test_records.workers()[:2]
        folder.append([header, {**first, "worst": [1.5, math.nan, math.inf]}])
    assert [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()] == read_records(
        tmp_path, RUN
    )
    assert read_records(tmp_path, RUN)[1]["worst"] == [1.5, None, None]


def test_a_folder_is_held_by_one_run(tmp_path):
    with (
        RunFolder.locked(tmp_path, RUN),
        pytest.raises(ComparisonError, match="another run is writing"),
        RunFolder.locked(tmp_path, RUN),
    ):
        pass
    with RunFolder.locked(tmp_path, RUN):
        pass


def test_the_last_checkpoint_comes_back_bit_for_bit(tmp_path):
    with RunFolder.locked(tmp_path, RUN) as folder:
        folder.save("adamw-0", 1, {**TREE, "a": TREE["a"] * 0})
        folder.save("adamw-0", 2, TREE)
    with RunFolder.locked(tmp_path, RUN) as folder:
        assert folder.progress("lion-0") is None
        assert folder.progress("adamw-0") == 2
        restored = folder.restore(TREE)
        chex.assert_trees_all_equal(restored, TREE, strict=True)
        folder.clear()
        assert folder.progress("adamw-0") is None
    assert len(list(tmp_path.rglob("*"))) == 1  # the lock


def test_a_checkpoint_counts_once_the_index_names_it(tmp_path, monkeypatch):
    class KilledError(Exception):
        pass

    def kill(*_):
        raise KilledError

    with RunFolder.locked(tmp_path, RUN) as folder:
        folder.save("adamw-0", 1, TREE)
        monkeypatch.setattr(store, "write", kill)
        with pytest.raises(KilledError):
            folder.save("adamw-0", 2, {**TREE, "a": TREE["a"] * 0})
        monkeypatch.undo()
    with RunFolder.locked(tmp_path, RUN) as folder:
        assert folder.progress("adamw-0") == 1
        np.testing.assert_array_equal(folder.restore(TREE)["a"], TREE["a"])
        folder.save("adamw-0", 2, TREE)
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["adamw-0-2.npz"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "folder"])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    with RunFolder.locked(tmp_path, RUN) as folder:
        folder.save("adamw-0", 1, TREE)
        files = [file for file in (tmp_path / "checkpoints").rglob("*") if file.is_file()]
        assert files
        for file in files:
            content = file.read_bytes()
            if damage == "delete":
                file.unlink()
            elif damage == "truncate":
                file.write_bytes(content[: len(content) // 2] + b"?")
            elif damage == "flip":
                file.write_bytes(content[:-1] + bytes([content[-1] ^ 1] if content else b"?"))
            else:
                file.rename(tmp_path / "elsewhere")
            with pytest.raises(ComparisonError, match="damaged"):
                folder.restore(TREE)
            if damage == "folder":
                (tmp_path / "elsewhere").rename(file)
            file.write_bytes(content)
        folder.restore(TREE)


DAMAGED = r"checkpoint\.json(, line 1: .*; delete the file| is damaged; delete .*checkpoint\.json)"
GOOD = {"unit": "adamw-0", "progress": 1, "path": "adamw-0-1.npz", "sha256": "0"}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"unit": "adamw-0"}', *(json.dumps(GOOD | {key: []}) for key in GOOD)]
    + [json.dumps(GOOD | {"progress": progress}) for progress in ("1", None, 1.0, 2, -1, True)]
    + [json.dumps(GOOD | {"path": path}) for path in ("../adamw-0-1.npz", "/", "", "adamw-0-1", "adamw-0-2.npz")],
)
def test_a_damaged_index_is_refused(tmp_path, text):
    with RunFolder.locked(tmp_path, RUN) as folder:
        folder.save("adamw-0", 1, TREE)
        (tmp_path / "checkpoint.json").write_text(text)
        with pytest.raises(ComparisonError, match=DAMAGED) as error:
            folder.progress("adamw-0")
    assert "\n" not in str(error.value)
    with pytest.raises(ComparisonError, match=DAMAGED), RunFolder.locked(tmp_path, RUN):
        pass
    assert (tmp_path / "checkpoints" / "adamw-0-1.npz").exists()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ComparisonError, match=r"cannot write to .*file"), RunFolder.locked(tmp_path / "file" / "run"):
        pass


def test_checkpoints_that_were_cut_short_are_removed(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "adamw-0-1.npz").touch()
    with RunFolder.locked(tmp_path, RUN) as folder:
        assert not list((tmp_path / "checkpoints").iterdir())
        folder.save("adamw-0", 1, TREE)
    (tmp_path / "checkpoints" / "adamw-0-2.npz.draft").touch()
    with RunFolder.locked(tmp_path, RUN) as folder:
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["adamw-0-1.npz"]
        assert folder.progress("adamw-0") == 1


@pytest.fixture
def full_disk(monkeypatch):
    """The disk is full from the moment when this is called."""

    def fill():
        def refuse(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", refuse)

    return fill


@pytest.mark.parametrize("old", [None, "old"])
def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, full_disk, old):
    file = tmp_path / "results.json"
    if old:
        store.write(file, old)
    full_disk()
    with pytest.raises(ComparisonError, match=r"cannot write .*results\.json: .*No space left on device"):
        store.write(file, "new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ([old] if old else [])


@pytest.mark.slow
def test_a_killed_writer_leaves_the_old_file_and_a_draft_that_the_next_one_takes(tmp_path):
    file = tmp_path / "results.json"
    store.write(file, "old")
    killed = "import os, pathlib, sys; from optkit.comparison import store; os.fsync = lambda _: os._exit(9)\n"
    killed += "store.write(pathlib.Path(sys.argv[1]), 'new')"
    assert subprocess.run([sys.executable, "-c", killed, file], cwd=ROOT, check=False).returncode == 9
    assert file.read_text() == "old"
    store.write(file, "newer")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["newer"]


def test_a_full_disk_at_a_checkpoint_is_said_in_one_line_and_the_last_one_stays(tmp_path, full_disk, monkeypatch):
    with RunFolder.locked(tmp_path, RUN) as folder:
        folder.save("adamw-0", 1, TREE)
        full_disk()
        with pytest.raises(ComparisonError, match=r"cannot write .*adamw-0-2\.npz: .*No space left on device") as error:
            folder.save("adamw-0", 2, TREE)
        assert "\n" not in str(error.value)
        assert folder.progress("adamw-0") == 1
        folder.restore(TREE)
        monkeypatch.undo()
        folder.save("adamw-0", 2, TREE)


@pytest.mark.slow
def test_writers_of_one_folder_wait_for_each_other(tmp_path):
    file = tmp_path / "numbers"
    store.write(file, "")
    adding = """
        import pathlib, sys
        from optkit.comparison import ComparisonError, store
        file = pathlib.Path(sys.argv[1])
        for _ in range(20):
            with store.hold(file.parent, wait=True):
                store.write(file, file.read_text() + sys.argv[2])
    """
    writers = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(adding), file, letter], cwd=ROOT) for letter in "ab"
    ]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert sorted(file.read_text()) == ["a"] * 20 + ["b"] * 20
