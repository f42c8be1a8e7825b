"""What a run's folder may rely on."""

import json
import math
import re

import numpy as np
import pytest

from experiments.errors import UserError
from experiments.store import HEADER, RunFolder, read_records

TREE = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": (np.int32(3), np.ones(4))}


def test_results_are_json_without_infinities(tmp_path):
    with RunFolder.locked(tmp_path) as folder:
        header = {"record": "run", **dict.fromkeys(HEADER)}
        folder.append([{**header, "x": [1.5, math.nan, math.inf]}, {"record": "round"}])
    assert [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()] == read_records(
        tmp_path
    )
    assert read_records(tmp_path)[0]["x"] == [1.5, None, None]


def test_a_folder_is_held_by_one_run(tmp_path):
    with (
        RunFolder.locked(tmp_path),
        pytest.raises(UserError, match="another run is writing"),
        RunFolder.locked(tmp_path),
    ):
        pass
    with RunFolder.locked(tmp_path):
        pass


def test_the_last_checkpoint_comes_back_bit_for_bit(tmp_path):
    with RunFolder.locked(tmp_path) as folder:
        folder.save("adamw-0", 1, {"a": TREE["a"] * 0, "b": TREE["b"]})
        folder.save("adamw-0", 2, TREE)
    with RunFolder.locked(tmp_path) as folder:
        assert folder.progress("lion-0") is None
        assert folder.progress("adamw-0") == 2
        restored = folder.restore(TREE)
        np.testing.assert_array_equal(restored["a"], TREE["a"])
        np.testing.assert_array_equal(restored["b"][1], TREE["b"][1])
        assert restored["b"][0] == 3
        folder.clear()
        assert folder.progress("adamw-0") is None
    assert len(list(tmp_path.rglob("*"))) == 1  # the lock


def test_a_checkpoint_counts_once_the_index_names_it(tmp_path, monkeypatch):
    class KilledError(Exception):
        pass

    def kill(*_):
        raise KilledError

    with RunFolder.locked(tmp_path) as folder:
        folder.save("adamw-0", 1, TREE)
        monkeypatch.setattr(folder, "_replace", kill)
        with pytest.raises(KilledError):
            folder.save("adamw-0", 2, {"a": TREE["a"] * 0, "b": TREE["b"]})
    with RunFolder.locked(tmp_path) as folder:
        assert folder.progress("adamw-0") == 1
        np.testing.assert_array_equal(folder.restore(TREE)["a"], TREE["a"])
        folder.save("adamw-0", 2, TREE)
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["adamw-0-2"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "folder"])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    with RunFolder.locked(tmp_path) as folder:
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
            with pytest.raises(UserError, match="damaged"):
                folder.restore(TREE)
            if damage == "folder":
                (tmp_path / "elsewhere").rename(file)
            file.write_bytes(content)
        folder.restore(TREE)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"unit": "adamw-0"}'])
def test_a_damaged_index_is_refused(tmp_path, text):
    with RunFolder.locked(tmp_path) as folder:
        folder.save("adamw-0", 1, TREE)
        (tmp_path / "checkpoint.json").write_text(text)
        with pytest.raises(UserError, match=r"damaged; delete .*checkpoint\.json"):
            folder.progress("adamw-0")


@pytest.mark.parametrize("text", ["", "{", "[]\n", '{"record": "round"}\n', "\x00"])
def test_results_that_no_run_wrote_are_refused(tmp_path, text):
    (tmp_path / "results.jsonl").write_text(text)
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "results.jsonl"))) as error:
        read_records(tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*file"), RunFolder.locked(tmp_path / "file" / "run"):
        pass


@pytest.mark.parametrize("text", ["{}", "[1]", '{"record": "run"}', "not json", '{"record": "run", "settings": {}'])
def test_a_file_that_no_run_wrote_is_refused(tmp_path, text):
    (tmp_path / "results.jsonl").write_text(text + "\n")
    with pytest.raises(UserError, match=r"results\.jsonl"):
        read_records(tmp_path)
