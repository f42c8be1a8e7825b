"""What `bench compile` promises."""

import json

import optax
import pytest

import optkit
from experiments import __main__ as command_line
from experiments.benchmarks import compile_time
from experiments.benchmarks.transformer import Size


def execute(*arguments):
    return command_line.execute(command_line.parser().parse_args(["bench", "compile", *arguments]))


def row_of(method, *seconds):
    zeros = (0.0,) * len(seconds)
    return compile_time.Row(
        method=method, layers=(12, 48), trace_seconds=seconds, lower_seconds=zeros, compile_seconds=zeros
    )


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(compile_time, "SIZES", {"7M": Size(vocabulary=8, positions=4, width=4, layers=1)})
    monkeypatch.setattr(compile_time, "LAYERS", (1, 2))
    monkeypatch.setattr(compile_time, "METHODS", {"lion": optkit.lion_kappa, "optax.lion": optax.lion})


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_run_prints_lines_and_a_table_and_writes_json_and_markdown(capsys, tmp_path):
    assert execute("--out", str(tmp_path)) == 0
    assert "s for 2 layers" in capsys.readouterr().out
    rows = json.loads((tmp_path / "bench-compile.json").read_text())["rows"]
    assert [(row["method"], row["layers"]) for row in rows] == [("lion", [1, 2]), ("optax.lion", [1, 2])]
    assert all(second > 0 for row in rows for second in row["compile_seconds"])
    assert "| optax.lion |" in (tmp_path / "bench-compile.md").read_text()


def test_the_ratio_is_that_of_all_the_time_together():
    row = row_of("dion", 2.0, 3.0)
    row = compile_time.Row(**{**vars(row), "compile_seconds": (2.0, 7.0)})
    assert row.seconds == (4.0, 10.0)
    assert row.growth == 2.5


@pytest.mark.parametrize(("seconds", "met"), [((2.0, 3.0), True), ((2.0, 3.1), False)])
def test_methods_of_this_library_are_held_against_the_target(seconds, met):
    verdicts = compile_time.verdicts([row_of("dion", *seconds), row_of("optax.contrib.muon", *seconds)])
    assert verdicts == [("dion", seconds[1] / seconds[0], met)]
    page = compile_time.markdown([row_of("dion", *seconds)])
    assert ("| met |" in page) == met
    assert ("| missed |" in page) != met


def test_dion_and_muon_are_measured_at_12_and_48_layers():
    assert compile_time.LAYERS == (12, 48)
    assert {"dion", "muon"} <= set(compile_time.METHODS)
    assert compile_time.MOST_GROWTH == 1.5
