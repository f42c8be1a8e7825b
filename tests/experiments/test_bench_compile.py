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
    monkeypatch.setattr(compile_time, "LAYERS_BESIDE", 1)
    monkeypatch.setattr(compile_time, "ROUNDS_BESIDE", 1)
    monkeypatch.setattr(compile_time, "BESIDE", {"mars_adamw": optkit.mars_adamw})


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_run_prints_lines_and_a_table_and_writes_json_and_markdown(capsys, tmp_path):
    assert execute("--out", str(tmp_path)) == 0
    assert "s for 2 layers" in capsys.readouterr().out
    content = json.loads((tmp_path / "bench-compile.json").read_text())
    rows = content["rows"]
    assert [(row["method"], row["layers"]) for row in rows] == [("lion", [1, 2]), ("optax.lion", [1, 2])]
    assert all(second > 0 for row in rows for second in row["compile_seconds"])
    (beside,) = content["beside_adamw"]
    assert beside["method"] == "mars_adamw"
    assert beside["ratio"] == beside["seconds"] / beside["adamw_seconds"] > 0
    page = (tmp_path / "bench-compile.md").read_text()
    assert "| optax.lion |" in page
    assert "| mars_adamw |" in page


def test_the_ratio_is_that_of_all_the_time_together():
    row = row_of("dion", 2.0, 3.0)
    row = compile_time.Row(**{**vars(row), "compile_seconds": (2.0, 7.0)})
    assert row.seconds == (4.0, 10.0)
    assert row.growth == 2.5


@pytest.mark.parametrize(("seconds", "met"), [((2.0, 3.0), True), ((2.0, 3.1), False)])
def test_methods_of_this_library_are_held_against_the_target(seconds, met):
    verdicts = compile_time.verdicts([row_of("dion", *seconds), row_of("optax.contrib.muon", *seconds)])
    assert verdicts == [("dion", seconds[1] / seconds[0], met)]
    page = compile_time.markdown([row_of("dion", *seconds)], [])
    assert ("| met |" in page) == met
    assert ("| missed |" in page) != met


def test_dion_and_muon_are_measured_at_12_and_48_layers():
    assert compile_time.LAYERS == (12, 48)
    assert {"dion", "muon"} <= set(compile_time.METHODS)
    assert compile_time.MOST_GROWTH == 1.5


@pytest.mark.parametrize(("method", "most"), [("mars_adamw", 1.5), ("adam_snsm", 2.0)])
def test_methods_for_single_leaves_are_held_against_adamw(method, most):
    rows = [compile_time.RowBeside(method=method, seconds=s, adamw_seconds=2.0) for s in (2 * most, 2 * most + 0.1)]
    assert [row.met for row in rows] == [True, False]
    met, missed = compile_time.markdown([], rows).splitlines()[-2:]
    assert "| met |" in met
    assert "| **missed** |" in missed
    assert missed.endswith(f"| {compile_time.WHY.get(method, '')} |")


def test_what_is_measured_beside_adamw_has_a_target():
    assert compile_time.BESIDE.keys() == compile_time.MOST_TIMES_ADAMW.keys()
    assert compile_time.WHY.keys() <= compile_time.BESIDE.keys()
    assert compile_time.LAYERS_BESIDE == 24
