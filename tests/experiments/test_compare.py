"""What makes a comparison fair, and what it writes down."""

import dataclasses
import io
import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from experiments import compare, optimizers, tasks
from experiments.baselines import BASELINES
from experiments.compare import Options, grid, next_rates, report_steps
from experiments.errors import UserError
from experiments.records import read_records
from optkit.catalog import METHODS


@pytest.fixture
def run(line, monkeypatch, tmp_path):
    """Compares on the toy task; returns what was printed and what was recorded."""
    monkeypatch.setattr(tasks, "load", lambda _: line)

    def run(*names, **options):
        console = Console(file=io.StringIO(), width=120)
        given = {"optimizers": names, "rates": 2, "rounds": 3, "seeds": 2, "steps": 10, "out": tmp_path} | options
        compare.run(Options(**given), console)
        return console.file.getvalue(), read_records(tmp_path)

    return run


def trainings(records, name):
    return [record for record in records if record["record"] == "training" and record["optimizer"] == name]


@pytest.mark.slow
def test_every_optimizer_gets_the_same_number_of_trainings_with_the_same_seeds(run):
    _, records = run("sgd", "adamw", "lion")
    for name in ("sgd", "adamw", "lion"):
        own = trainings(records, name)
        assert len(own) == 2 * 3 * 2
        assert len({record["learning_rate"] for record in own}) == 2 * 3
        assert {record["seed"] for record in own} == {0, 1}
        assert {tuple(record["steps"]) for record in own} == {tuple(range(11))}


@pytest.mark.slow
def test_adamw_is_always_trained(run):
    printed, records = run("sgd")
    assert trainings(records, "adamw")
    assert printed.index("adamw") < printed.index("sgd")


@pytest.mark.slow
def test_a_diverging_optimizer_gets_a_row_that_says_so(run, monkeypatch):
    wild = dataclasses.replace(BASELINES["sgd"], name="wild", grid=1e30)
    methods = {**BASELINES, "wild": wild}
    monkeypatch.setattr(optimizers, "comparable", lambda: methods)
    printed, records = run("wild")
    assert any("wild" in line and "diverged" in line for line in printed.splitlines())
    assert all(record["validation"]["loss"][-1] is None for record in trainings(records, "wild")[:4])


@pytest.mark.slow
def test_weight_decay_is_said_to_be_missing_where_it_is(run):
    printed, _ = run("sgd", weight_decay=0.1)
    assert "without weight decay, which they do not have: sgd" in printed
    printed, _ = run("sgd", weight_decay=0.1)  # a finished run is shown again
    assert "sgd" in printed


@pytest.mark.slow
def test_a_stopped_run_continues_from_its_last_checkpoint(run, monkeypatch):
    class KilledError(Exception):
        pass

    advance = compare.Trainings.advance
    left = 13

    def count(*arguments):
        nonlocal left
        left -= 1
        if left < 0:
            raise KilledError
        return advance(*arguments)

    monkeypatch.setattr(compare, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr(compare.Trainings, "advance", count)
    with pytest.raises(KilledError):
        run("sgd")
    left = 2 * 3 * 10 - 13  # optimizers, rounds, reports
    run("sgd")
    assert left == 0


@pytest.mark.slow
def test_another_configuration_in_the_same_folder_is_refused(run):
    run("sgd")
    with pytest.raises(UserError, match="holds a run with steps 10, not 12; choose another --out"):
        run("sgd", steps=12)


@pytest.mark.slow
def test_rounds_whose_rates_would_be_the_same_are_refused(run, monkeypatch):
    monkeypatch.setattr(compare, "SPACING", 1 + 2e-7)
    with pytest.raises(UserError, match=r"in round \d learning rates of \w+ differ by less than float32"):
        run("sgd", rounds=8)


def test_a_batch_that_workers_cannot_share_is_refused(run):
    with pytest.raises(UserError, match="--workers 3 does not divide the batch"):
        run("sgd", workers=3)


@pytest.mark.slow
def test_results_hold_versions_seeds_hardware_and_data(run):
    _, (header, *_) = run("sgd")
    assert header["versions"]["jax"] == jax.__version__
    assert header["settings"]["seeds"] == [0, 1]
    assert header["hardware"]["devices"] == "8 x cpu"
    assert "data" in header


@pytest.mark.slow
def test_the_run_can_be_drawn_again_without_training(run, tmp_path, monkeypatch):
    printed, _ = run("sgd")
    (tmp_path / "figure.png").unlink()
    monkeypatch.delattr(compare, "Sweep")
    console = Console(file=io.StringIO(), width=120)
    compare.show_only(tmp_path, console)
    assert console.file.getvalue() in printed
    assert (tmp_path / "figure.png").exists()


def test_the_first_grid_lies_around_its_centre():
    rates = grid(1e-3, 6)
    assert np.exp(np.mean(np.log(rates))) == pytest.approx(1e-3)
    np.testing.assert_allclose(np.diff(np.log10(rates)), 0.5)


LOSSES = st.lists(st.floats(0, 10) | st.just(math.inf), min_size=2, max_size=12)


@given(losses=LOSSES, count=st.integers(2, 9))
def test_a_further_round_has_as_many_rates_all_new_on_both_sides_of_the_best(losses, count):
    tried = dict(zip(grid(1.0, len(losses)), losses, strict=True))
    best = min(tried, key=tried.get)
    rates = next_rates(tried, count)
    assert len(rates) == len(set(rates) - set(tried)) == count
    assert rates == sorted(rates)
    assert sum(rate < best for rate in rates) == count // 2
    between = [rate for rate in tried if rates[0] < rate < rates[-1]]
    assert between == [best]


def test_the_grid_moves_on_while_the_best_rate_lies_on_its_edge():
    np.testing.assert_allclose(next_rates({0.1: 2.0, 1.0: 1.0}, 4)[2:], [10**0.5, 10])
    np.testing.assert_allclose(next_rates({0.1: 1.0, 1.0: 2.0}, 4)[:2], [0.01, 10**-1.5])


def test_when_everything_diverged_the_grid_moves_down():
    assert min(next_rates({0.1: math.inf, 1.0: math.inf}, 4)) < 0.1


@pytest.mark.parametrize("steps", [1, 2, 39, 40, 41, 997, 1000])
def test_reports_run_from_the_start_to_the_end(steps):
    ends = report_steps(steps)
    assert ends[0] == 0
    assert ends[-1] == steps
    assert len(ends) <= compare.REPORTS + 1
    strides = np.diff(ends)
    assert np.all(strides > 0)
    assert len(set(strides[:-1])) <= 1


def test_everything_in_the_catalog_that_one_loop_can_run_can_be_compared():
    known = optimizers.comparable()
    for name in ("sgd", "adamw", *optimizers.DEFAULT):
        assert name in known
    for method in METHODS.values():
        if method.kind == "optimizer" and "axis_name" not in method.needs:
            assert {method.name, *(f"{method.name}:{variant}" for variant in method.variants)} <= set(known)


def test_entries_given_take_the_place_of_names_beside_adamw():
    entry = dataclasses.replace(METHODS["signum"], name="lion:mine")
    assert [method.name for method in optimizers.find(("signum",), [entry])] == ["adamw", "lion:mine"]


def test_an_unknown_optimizer_is_refused_with_close_matches():
    with pytest.raises(UserError, match="unknown optimizer 'loin'; did you mean lion"):
        optimizers.find(("loin",))
