"""What `bench update` promises; its timings are no tests."""

import dataclasses
import functools
import json

import benches
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import nearest, transformer, update, update_report
from optkit.catalog import METHODS


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """One size that takes no time."""
    monkeypatch.setattr(update, "SIZES", {"tiny": transformer.Size(vocabulary=32, positions=8, width=8, layers=1)})
    monkeypatch.setattr(update, "SECONDS_A_TURN", 1e-9)


execute = functools.partial(benches.execute, "update")
refused = functools.partial(benches.refused, "update")


def read(folder):
    (file,) = folder.glob("*.json")
    return json.loads(file.read_text())


def row_of(optimizer, **changes):
    row = update.Bench("tiny", "float32", 1).measure(METHODS["lion_kappa"])
    return dataclasses.replace(row, optimizer=optimizer, **changes)


@pytest.mark.slow
def test_a_run_prints_lines_and_tables_and_writes_json_and_markdown(capsys, tmp_path):
    assert execute("--optimizers", "lion_kappa:l1,cautious:adamw", "--rounds", "3", "--out", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "tiny lion_kappa:l1: " in printed
    assert "times optax.adamw" in printed
    assert "\x1b" not in printed
    assert "Targets" in printed
    page = (tmp_path / "bench-update-cpu.md").read_text()
    assert "| cautious:adamw | adamw |" in page
    assert "| tiny | lion_kappa:l1 | at most 1.05 times optax.lion |" in page

    found = read(tmp_path)
    lion, cautious = found["rows"]
    assert (lion["optimizer"], lion["reference"], lion["size"], lion["rounds"]) == ("lion_kappa:l1", "lion", "tiny", 3)
    assert lion["state_bytes_per_parameter"] == 4
    assert cautious["state_bytes_per_parameter"] == pytest.approx(8, rel=0.01)
    assert lion["moved_bytes_per_parameter"] == 20  # parameters and momentum read and written, gradients read
    assert cautious["moved_bytes_per_parameter"] == pytest.approx(36, rel=0.01)  # two arrays are read once more
    assert lion["parameters"] == 32 * 8 + 8 * 8 + 6 * 8 + 12 * 8 * 8 + 9 * 8
    assert len(found["targets"]) == 4
    for row in found["rows"]:
        for quartiles in ("ratio", "milliseconds", "reference_milliseconds", "gigabytes_per_second", "share_of_copy"):
            low, middle, high = row[quartiles]
            assert 0 < low <= middle <= high < np.inf
        assert row["compile_seconds"] > 0
        assert row["versions"]["jax"] == jax.__version__
        assert "cpu" in row["hardware"]["devices"]


@pytest.mark.slow
def test_a_second_run_replaces_its_rows_and_keeps_the_others(tmp_path):
    execute("--optimizers", "signum,lion_kappa:l1", "--rounds", "1", "--out", str(tmp_path))
    execute("--optimizers", "lion_kappa:l1,grams", "--rounds", "2", "--out", str(tmp_path))
    rows = read(tmp_path)["rows"]
    assert [(row["optimizer"], row["rounds"]) for row in rows] == [("signum", 1), ("lion_kappa:l1", 2), ("grams", 2)]


@pytest.mark.slow
def test_two_runs_into_one_folder_keep_the_rows_of_both(monkeypatch, tmp_path):
    measure = update.Bench.measure

    def meanwhile(bench, method):
        if method.name == "signum":
            execute("--optimizers", "grams", "--rounds", "1", "--out", str(tmp_path))
        return measure(bench, method)

    monkeypatch.setattr(update.Bench, "measure", meanwhile)
    execute("--optimizers", "lion_kappa:l1,signum", "--rounds", "1", "--out", str(tmp_path))
    assert [row["optimizer"] for row in read(tmp_path)["rows"]] == ["lion_kappa:l1", "grams", "signum"]


@pytest.mark.slow
def test_the_file_of_another_dtype_is_another_one(tmp_path):
    execute("--optimizers", "lion_kappa:l1", "--rounds", "1", "--dtype", "bfloat16", "--out", str(tmp_path))
    assert (tmp_path / "bench-update-cpu-bfloat16.md").exists()
    (row,) = read(tmp_path)["rows"]
    assert row["state_bytes_per_parameter"] == 4, "the momentum is kept in float32"
    assert row["reference_state_bytes_per_parameter"] == pytest.approx(2, rel=0.01)


def test_an_interrupted_run_keeps_what_is_finished(monkeypatch, tmp_path):
    measure = update.Bench.measure

    def interrupt(bench, method):
        if method.name == "signum":
            raise KeyboardInterrupt
        return measure(bench, method)

    monkeypatch.setattr(update.Bench, "measure", interrupt)
    with pytest.raises(KeyboardInterrupt):
        execute("--optimizers", "lion_kappa:l1,signum", "--rounds", "1", "--out", str(tmp_path))
    assert [row["optimizer"] for row in read(tmp_path)["rows"]] == ["lion_kappa:l1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--optimizers", "lion_kappa:l1,adamv"), "unknown optimizer 'adamv'"),
        (("--optimizers", "mars_adamw:uncliped"), "did you mean mars_adamw:unclipped"),
        (("--size", "8M"), "unknown size '8M'; did you mean 7M or 50M?"),
        (("--dtype", "int8"), "unknown dtype 'int8'; there are float32, bfloat16, float16"),
        (("--rounds", "0"), "must be a positive integer, got 0"),
        (("--optimizers", "lion_kappa:l1", "--out", "/dev/null/results"), "cannot write to /dev/null/results"),
    ],
)
def test_bad_input_is_refused_in_one_line(capsys, arguments, message):
    assert message in refused(capsys, *arguments)


def test_foreign_results_are_refused_in_one_line(capsys, tmp_path):
    (tmp_path / "bench-update-cpu.json").write_text("[]")
    said = refused(capsys, "--optimizers", "lion_kappa:l1", "--out", str(tmp_path))
    assert f"{tmp_path}/bench-update-cpu.json, line 1: [] is not of type 'object'" in said


@pytest.mark.slow
def test_targets_are_held_against_medians():
    row = row_of("lion_kappa:l1", ratio=(0.9, 1.05, 2.0), share_of_copy=(0.1, 0.69, 0.9))
    time, bandwidth = update_report.verdicts([row])
    assert time.met
    assert not bandwidth.met
    assert "| **missed** |" in update_report.markdown([row])
    assert not update_report.verdicts([row_of("mars_adamw", ratio=(1.0, 1.71, 1.8))])[0].met
    assert not update_report.verdicts([row_of("signum")])


# One method for each combination of what methods ask for.
ASKING = {
    (method.stacked, method.needs): method.name for method in nearest.find(None) if method.stacked or method.needs
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ASKING.values())
def test_methods_that_need_more_than_a_gradient_get_it(name):
    row = update.Bench("tiny", "float32", 1).measure(METHODS[name])
    assert row.fed_with
    assert 0 < row.ratio[1] < np.inf


@pytest.mark.slow
def test_rows_are_read_and_the_reference_reads_them_too():
    row = update.Bench("tiny", "float32", 1).measure(METHODS["vr_sgd"])
    assert row.fed_with == "4 microbatches"
    assert row.moved_bytes_per_parameter == 2 * 4 + 4 * 4


def test_all_methods_of_the_catalog_are_measured_and_the_targets_too():
    names = [method.name for method in nearest.find(None)]
    assert {
        name
        for name, method in METHODS.items()
        if method.kind not in {"function", "sampler"} and "axis_name" not in method.needs
    } <= set(names)
    assert set(update_report.LONGEST) <= set(names)
    assert [name for name in names if name.startswith("lion_kappa:")] == ["lion_kappa:l1"]
    assert [method.name for method in nearest.find(("lion_kappa:huber",))] == ["lion_kappa:huber"]


def test_tables_name_methods_that_exist():
    methods = nearest.measurable()
    assert nearest.NEAREST.keys() <= methods.keys()
    assert nearest.READ_AGAIN.keys() <= methods.keys()
    assert nearest.WHY.keys() <= methods.keys()


@pytest.mark.slow
def test_the_page_says_why_a_step_takes_long():
    page = update_report.markdown([row_of("sparse_ggt"), row_of("signum")])
    long, short = (line for line in page.splitlines() if line.startswith(("| sparse_ggt ", "| signum ")))
    assert long.endswith(f"| {nearest.WHY['sparse_ggt']} |")
    assert short.endswith("|  |")


@pytest.mark.slow
def test_the_page_tells_of_first_steps_that_take_long():
    long, short, unknown = (row_of("adam_snsm", first_step=steps) for steps in (52.4, 1.3, None))
    lines = update_report.markdown([long, short, unknown]).splitlines()
    assert ["| 52 steps |" in line for line in lines if line.startswith("| adam_snsm ")] == [True, False, False]


def test_every_step_of_the_results_that_takes_more_than_twice_as_long_has_its_reason():
    rows = update_report.read(update.RESULTS / "bench-update-cpu.json")
    assert {row.optimizer for row in rows if row.ratio[1] > 2} <= nearest.WHY.keys()


def test_clipped_sgd_is_measured_beside_as_much_state():
    method, shapes = METHODS["clipped_sgd"], {"kernel": jax.ShapeDtypeStruct((4, 3), jnp.float32)}
    reference = nearest.nearest(method, 1.0).factory(1e-3)
    ours = method.optimizer_factory(**{"learning_rate": 1e-3, **method.arguments})
    sizes = [
        sum(x.size for x in jax.tree.leaves(jax.eval_shape(tx.init, shapes)) if x.shape) for tx in (ours, reference)
    ]
    assert sizes == [12, 12]


@pytest.mark.parametrize(
    ("arrays", "name"), [(0, "sgd"), (0.01, "sgd"), (1.0, "sgd(momentum)"), (2, "adamw"), (5, "adamw")]
)
def test_a_method_without_a_nearest_one_is_measured_beside_as_much_state(arrays, name):
    assert nearest.nearest(METHODS["grams"], arrays).name == name


@pytest.mark.parametrize(
    ("method", "name"),
    [("dion", "muon"), ("muon:moonlight", "muon"), ("galore_adamw", "galore"), ("adam_snsm", "adamw")],
)
def test_a_method_of_a_kind_that_optax_has_is_measured_beside_it(method, name):
    assert nearest.nearest(nearest.measurable()[method], 0.5).name == name


@pytest.mark.parametrize(("name", "count"), [("7M", 7e6), ("50M", 50e6)])
def test_sizes_are_what_they_are_called(name, count):
    leaves = jax.tree.leaves(transformer.parameters(transformer.SIZES[name], jnp.float32))
    assert sum(leaf.size for leaf in leaves) == pytest.approx(count, rel=0.05)


def test_a_program_goes_on_from_where_it_stopped():
    program = update.Program(lambda count, step: count + step, jnp.zeros(()), jnp.ones(()))
    assert program.turn() > 0
    assert program.compile_seconds > 0
