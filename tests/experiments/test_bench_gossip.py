"""What `bench gossip` promises."""

import dataclasses
import json

import pytest

from experiments import __main__ as command_line
from experiments.benchmarks import gossip
from experiments.benchmarks.transformer import Size


def execute(*arguments):
    return command_line.execute(command_line.parser().parse_args(["bench", "gossip", *arguments]))


ROW = gossip.Row(
    topology="ring",
    arrays=2,
    messages=2,
    sent=16,
    milliseconds=(1.0, 2.0, 3.0),
    bare_milliseconds=(1.0, 2.0, 3.0),
    ratio=(0.9, 1.2, 9.0),
)


@pytest.mark.slow
def test_a_run_prints_lines_and_writes_json_and_markdown(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(gossip, "SIZES", {"7M": Size(vocabulary=8, positions=4, width=4, layers=1)})
    monkeypatch.setattr(gossip, "TOPOLOGIES", {"ring": gossip.TOPOLOGIES["ring"]})
    monkeypatch.setattr(gossip, "TURNS", 2)
    monkeypatch.setattr(gossip, "RUNS", 1)
    assert execute("--out", str(tmp_path)) == 0
    assert "topology: ring, arrays: 20, messages: 2" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "bench-gossip.json").read_text())["rows"]
    numbers = 8 * 4 + 4 * 4 + 6 * 4 + 4 * (4 * 4 + 4) + (4 * 16 + 16) + (16 * 4 + 4)
    assert row["sent"] == 2 * 4 * numbers
    assert row["met"] == (row["ratio"][1] <= gossip.MOST)
    assert "| ring | 20 | 2 |" in (tmp_path / "bench-gossip.md").read_text()


def test_the_command_asks_for_the_devices_that_it_runs_on():
    assert command_line.parser().parse_args(["bench", "gossip"]).workers == gossip.DEVICES


@pytest.mark.parametrize(("ratio", "met"), [(1.2, True), (1.21, False)])
def test_the_median_is_held_against_the_target(ratio, met):
    row = dataclasses.replace(ROW, ratio=(0.5, ratio, 9.0))
    assert row.met == met
    assert ("**missed**" in gossip.markdown([row])) != met


def test_results_that_cannot_be_written_are_refused_in_one_line(capsys):
    with pytest.raises(SystemExit, match="2"):
        execute("--out", "/dev/null/results")
    assert capsys.readouterr().err.startswith("error: argument --out: cannot write to /dev/null/results")
