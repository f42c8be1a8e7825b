"""What `bench sharded` promises."""

import json

import pytest

from experiments import __main__ as command_line
from experiments.benchmarks import sharded


def execute(*arguments):
    return command_line.execute(command_line.parser().parse_args(["bench", "sharded", *arguments]))


def row_of(**changes):
    shape, rank, mesh, _ = sharded.MOST_SENT
    found = {"shape": shape, "mesh": mesh, "method": "dion", "axes": "explicit", "rank": rank, "open_loops": 1}
    return sharded.Row(**{**found, **changes})


@pytest.mark.slow
def test_a_run_prints_lines_and_tables_and_writes_json_and_markdown(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sharded, "SHAPES", ((64, 32),))
    monkeypatch.setattr(sharded, "MESHES", ((4, 2),))
    monkeypatch.setattr(sharded, "RANKS", (8,))
    assert execute("--out", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "64 x 32 4 x 2 dion explicit 8 " in printed
    assert "Data-parallel workers" in printed
    page = (tmp_path / "bench-sharded.md").read_text()
    assert "| 64 x 32 | 4 x 2 | optax.contrib.muon | automatic |" in page
    assert "| 64 x 32, rank 8: 768 numbers a worker | 768 | met |" in page

    rows = json.loads((tmp_path / "bench-sharded.json").read_text())["rows"]
    programs = [(row["method"], row["axes"]) for row in rows]
    assert programs == [
        ("dion", "automatic"),
        ("dion", "explicit"),
        ("sharded_dion", "manual"),
        ("muon", "automatic"),
        ("muon", "explicit"),
        ("optax.contrib.muon", "automatic"),
        ("dion, averaged factors", "manual"),
        ("dion, averaged gradients", "manual"),
    ]
    sent = {program: row["sent"] for program, row in zip(programs, rows, strict=True)}
    assert sent["dion", "explicit"] == sent["dion", "automatic"]
    assert "all-gather" not in sent["dion", "explicit"]
    assert sent["dion, averaged gradients", "manual"] == {"all-reduce": 64 * 32 * 4 * 2 * 7 // 8}
    assert sent["dion, averaged factors", "manual"] == {"all-reduce": (64 + 32) * 8 * 4 * 2 * 7 // 8}


def test_the_command_asks_for_the_devices_that_it_compiles_for():
    assert command_line.parser().parse_args(["bench", "sharded"]).workers == sharded.DEVICES


@pytest.mark.parametrize(("sent", "met"), [
    ({"all-reduce": 200_000}, True), ({"all-reduce": 200_001}, False), ({"all-reduce": 9, "all-gather": 9}, False),
])  # fmt: skip
def test_targets_are_held_against_what_is_sent(sent, met):
    ((target, _, found),) = sharded.verdicts([row_of(sent=sent)])
    assert found == met
    assert "at most 0.2 MB" in target
    assert ("**missed**" in sharded.markdown([row_of(sent=sent)])) != met
    assert not sharded.verdicts([row_of(sent=sent, mesh=(8, 1))])


def test_results_that_cannot_be_written_are_refused_in_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sharded, "measure", lambda: iter(()))
    (tmp_path / "bench-sharded.json").mkdir()
    assert execute("--out", str(tmp_path)) == 2
    assert capsys.readouterr().err.startswith(f"error: cannot write {tmp_path}")
