"""What makes a comparison fair, what it writes down, and how it goes on."""

import dataclasses
import io
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optkit.comparison import Comparison, ComparisonError, entries, memory, results
from optkit.comparison import run as engine
from optkit.comparison.baselines import BASELINES
from optkit.comparison.run import Plan, report_steps
from optkit.comparison.terminal import Terminal
from optkit.method import Method


@pytest.fixture
def run(line, tmp_path):
    """Compares on the toy task; returns what was printed and what was recorded."""

    def run(*optimizers, task=line, **options):
        terminal = Terminal(io.StringIO())
        given = {"rates": 2, "rounds": 3, "seeds": 2, "steps": 10, "folder": tmp_path} | options
        engine.run(Plan(task=task, methods=entries.find(optimizers), **given), terminal)
        result = Comparison.read(tmp_path)
        return terminal.file.getvalue() + str(result), result.records

    return run


@pytest.fixture
def trained(monkeypatch):
    """Counts the calls that train."""
    calls = []
    advance = engine.Trainings.advance

    def count(*arguments):
        calls.append(arguments)
        return advance(*arguments)

    monkeypatch.setattr(engine.Trainings, "advance", count)
    return calls


def mine(learning_rate, b1=0.5):
    """My own."""
    return optax.sgd(learning_rate, momentum=b1)


def trainings(records, name):
    return [record for record in records if record["record"] == "training" and record["optimizer"] == name]


def numbers(records):
    """What does not depend on the clock, in any order."""
    kept = [{k: v for k, v in record.items() if k != "milliseconds_per_step"} for record in records[1:]]
    return sorted(map(repr, kept))


@pytest.mark.slow
def test_every_optimizer_gets_the_same_number_of_trainings_with_the_same_seeds(run):
    _, records = run("sgd", "adamw", mine)
    for name in ("sgd", "adamw", "mine"):
        own = trainings(records, name)
        assert len(own) == 2 * 3 * 2
        assert len({record["learning_rate"] for record in own}) == 2 * 3
        assert {record["seed"] for record in own} == {0, 1}
        assert {tuple(record["steps"]) for record in own} == {tuple(range(11))}


@pytest.mark.slow
def test_adamw_is_always_trained_and_first(run):
    printed, records = run("sgd")
    assert trainings(records, "adamw")
    assert printed.index("adamw") < printed.index("sgd")


@pytest.mark.slow
def test_an_own_function_is_tried_around_the_best_rate_of_adamw(run):
    _, records = run(mine)
    losses = results.losses_by_rate(trainings(records, "adamw"))
    best = min(losses, key=losses.get)
    first = {record["learning_rate"] for record in trainings(records, "mine") if record["round"] == 0}
    assert math.sqrt(math.prod(first)) == pytest.approx(best, rel=1e-6)


@pytest.mark.slow
def test_a_pilot_tells_before_the_others_what_the_seeds_can_show(run):
    printed, _ = run("sgd", difference=0.02)
    assert printed.index("2 seeds show") < printed.index("sgd: ")
    assert "one of 0.02 of the loss needs" in " ".join(printed.split())


@pytest.mark.slow
def test_a_diverging_optimizer_gets_a_row_that_says_so(run):
    printed, records = run(dataclasses.replace(BASELINES["sgd"], name="wild", grid=1e30))
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

    advance = engine.Trainings.advance
    left = 13

    def count(*arguments):
        nonlocal left
        left -= 1
        if left < 0:
            raise KilledError
        return advance(*arguments)

    monkeypatch.setattr(engine, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr(engine.Trainings, "advance", count)
    with pytest.raises(KilledError):
        run("sgd")
    left = 2 * 3 * 10 - 13  # optimizers, rounds, reports
    run("sgd")
    assert left == 0


@pytest.mark.slow
def test_more_optimizers_seeds_and_rounds_extend_a_run_and_repeat_nothing(run, trained):
    _, first = run("sgd", rounds=1)
    trained.clear()
    _, second = run("sgd", mine, rounds=2, seeds=3)
    # Both get a third seed in the first round, and a second round; the new one gets all.
    assert len(trained) == 10 * (2 * 2 + 2)
    assert set(numbers(first)) < set(numbers(second))
    for name in ("adamw", "sgd", "mine"):
        assert len(trainings(second, name)) == 2 * 2 * 3
        for number in (0, 1):
            by_seed = {
                seed: {one["learning_rate"] for one in trainings(second, name) if (one["seed"], one["round"]) == key}
                for seed, key in ((seed, (seed, number)) for seed in range(3))
            }
            assert by_seed[0] == by_seed[1] == by_seed[2]
    trained.clear()
    _, third = run("sgd", mine, rounds=2, seeds=3)
    assert (trained, third) == ([], second)


@pytest.mark.slow
def test_the_result_does_not_depend_on_the_order_in_which_optimizers_were_added(run, tmp_path):
    run("sgd", mine)
    run("lion")
    _, records = run("sgd", mine, "lion")
    _, at_once = run("sgd", mine, "lion", folder=tmp_path / "other") and (
        None,
        Comparison.read(tmp_path / "other").records,
    )
    assert numbers(records) == numbers(at_once)


@pytest.mark.slow
def test_optimizers_that_would_fall_behind_are_named(run):
    run("sgd", rounds=1)
    with pytest.raises(ComparisonError, match="holds sgd with fewer rounds or seeds; name them too"):
        run("lion", rounds=2)


@pytest.mark.slow
def test_an_own_optimizer_that_has_changed_is_refused(run):
    run(mine, rounds=1)

    def changed(learning_rate):
        return optax.sgd(learning_rate, momentum=0.25)

    changed.__name__ = "mine"
    with pytest.raises(ComparisonError, match="holds results of another mine"):
        run(changed, rounds=1)


@pytest.mark.slow
def test_an_own_optimizer_gets_the_loss_and_its_functions(run):
    def needy(learning_rate):
        def update(updates, state, params=None, *, value, value_fn, grad_fn, **extra_args):
            del updates, extra_args
            scale = jnp.where(value_fn(params) <= value + 1e-6, -learning_rate, jnp.nan)
            return jax.tree.map(lambda g: scale * g, grad_fn(params)), state

        return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)

    _, records = run(needy, rounds=1)
    assert all(one["validation"]["loss"][-1] is not None for one in trainings(records, "needy"))


@pytest.mark.slow
def test_an_own_optimizer_that_failed_can_be_mended_or_taken_back(run):
    def broken(learning_rate):
        def update(*_):
            raise RuntimeError("no such thing")

        return optax.GradientTransformation(optax.sgd(learning_rate).init, update)

    def mended(learning_rate):
        return optax.sgd(learning_rate)

    broken.__name__ = mended.__name__ = "fragile"
    with pytest.raises(RuntimeError, match="no such thing"):
        run("sgd", broken, rounds=1)
    printed, _ = run("sgd", rounds=1)
    assert "fragile" not in printed
    printed, _ = run(mended, rounds=1)
    assert "fragile" in printed


@pytest.mark.slow
def test_an_own_optimizer_that_changed_before_its_first_round_ended_starts_again(run, monkeypatch):
    def changed(learning_rate):
        return optax.sgd(learning_rate, momentum=0.25)

    changed.__name__ = "mine"
    monkeypatch.setattr(engine, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    advance, left = engine.Trainings.advance, 15

    def stop(*arguments):
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        return advance(*arguments)

    monkeypatch.setattr(engine.Trainings, "advance", stop)
    with pytest.raises(KeyboardInterrupt):
        run(mine, rounds=1)
    left = -1
    run(changed, rounds=1)
    assert left == -1 - 10  # from the first step on


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"loss": lambda params, batch: jnp.mean(jnp.abs(batch["x"] @ params - batch["y"]))}, "model"),
        ({"init": lambda key: jax.random.uniform(key, (3,))}, "model"),
        ({"train": {"x": np.ones((20, 3), np.float32), "y": np.ones(20, np.float32)}}, "digest"),
        ({"batch_size": 4}, "batch_size 8, not 4"),
    ],
)
def test_another_task_in_the_same_folder_is_refused(run, line, change, words):
    run("sgd", rounds=1)
    with pytest.raises(ComparisonError, match=f"holds a run with {words}.*; choose another folder"):
        run("sgd", rounds=1, task=dataclasses.replace(line, **change))


@pytest.mark.slow
def test_facts_of_any_sequence_continue(run, line, trained):
    task = dataclasses.replace(line, facts={"shape": (3, math.nan)})
    run(rounds=1, task=task)
    trained.clear()
    run(rounds=1, task=task)
    assert trained == []


@pytest.mark.slow
def test_another_configuration_in_the_same_folder_is_refused(run):
    run("sgd")
    with pytest.raises(ComparisonError, match="holds a run with steps 10, not 12; choose another folder"):
        run("sgd", steps=12)


@pytest.mark.slow
def test_rounds_whose_rates_would_be_the_same_are_refused(run, monkeypatch):
    monkeypatch.setattr("optkit.comparison.search.SPACING", 1 + 2e-7)
    with pytest.raises(ComparisonError, match=r"in round \d learning rates of \w+ differ by less than float32"):
        run("sgd", rounds=8)


def test_a_batch_that_workers_cannot_share_is_refused(run):
    with pytest.raises(ComparisonError, match="3 workers do not divide the batch"):
        run("sgd", workers=3)


@pytest.mark.slow
def test_results_hold_versions_seeds_hardware_and_data(run):
    _, (header, *_) = run("sgd")
    assert header["versions"]["jax"] == jax.__version__
    assert header["settings"]["seeds"] == [0, 1]
    assert header["hardware"]["devices"] == "8 x cpu"
    assert header["data"]["size"] == {"train": 20, "validation": 10, "test": 10}
    assert header["data"]["parameters"] == 3


@pytest.mark.slow
def test_trainings_that_do_not_fit_into_memory_run_in_parts_with_the_same_result(run, tmp_path, monkeypatch):
    _, at_once = run("sgd", mine)
    sizes = []
    available = memory.available

    def little(_):
        # Enough for one training, not for two.
        return 2.5 * program_of_one

    def needed(program):
        sizes.append(found(program))
        return sizes[-1]

    found = memory.needed
    monkeypatch.setattr(memory, "needed", needed)
    run("sgd", mine, folder=tmp_path / "measured")
    program_of_one = min(sizes) / 4
    assert available(np.array(jax.devices()[:1])) > max(sizes)
    monkeypatch.setattr(memory, "available", little)
    sizes.clear()
    run("sgd", mine, folder=tmp_path / "parts")
    in_parts = Comparison.read(tmp_path / "parts").records
    assert len(sizes) > 3
    assert len(in_parts) == len(at_once)
    for one, other in zip(at_once[1:], in_parts[1:], strict=True):
        assert one["record"] == other["record"]
        if one["record"] == "training" and one["round"] == 0:
            np.testing.assert_allclose(one["validation"]["loss"], other["validation"]["loss"], rtol=1e-4)


@pytest.mark.slow
def test_other_hyperparameters_are_tuned_within_the_same_budget(run):
    printed, records = run("sgd", mine, tune=("b1",), rounds=3, rates=3)
    own = trainings(records, "mine")
    assert len(own) == len(trainings(records, "sgd")) == 3 * 3 * 2
    assert {one["tuned"]["b1"] for one in own if one["round"] == 0} == {0.5}
    second = [one for one in own if one["round"] == 1]
    assert len({one["tuned"]["b1"] for one in second}) == 3
    assert len({one["learning_rate"] for one in second}) == 1
    assert all(not one["tuned"] for one in trainings(records, "sgd"))
    assert "b1 is not tuned where it is no hyperparameter: sgd" in printed


@pytest.mark.slow
def test_a_tuned_value_reaches_the_optimizer(run):
    given = []

    def recorded(learning_rate, b1=0.5):
        given.append(b1)
        return optax.sgd(learning_rate, momentum=b1)

    _, records = run(recorded, tune=("b1",), rounds=2)
    assert any(isinstance(value, jax.core.Tracer) for value in given)
    losses = {one["tuned"]["b1"]: one["train_loss"][-1] for one in trainings(records, "recorded") if one["seed"] == 0}
    assert len(set(losses.values())) == len(losses) == 3


@pytest.mark.slow
def test_a_model_with_a_state_trains(run, line):
    # The running mean of the targets, which the loss takes and returns.
    def loss(params, state, batch):
        mean = 0.9 * state["mean"] + 0.1 * jnp.mean(batch["y"])
        error = batch["x"] @ params + mean - batch["y"]
        return jnp.mean(error**2), {"mean": mean, "key": jax.random.split(state["key"])[0]}

    task = dataclasses.replace(
        line,
        loss=loss,
        state=lambda key: {"mean": jnp.zeros(()), "key": key},
        metrics=lambda params, state, split: {"loss": (split["x"] @ params + state["mean"] - split["y"]) ** 2},
    )
    _, records = run("sgd", task=task, steps=100)
    assert min(results.losses_by_rate(trainings(records, "sgd")).values()) < 0.5


@pytest.mark.parametrize("steps", [1, 2, 39, 40, 41, 997, 1000])
def test_reports_run_from_the_start_to_the_end(steps):
    ends = report_steps(steps)
    assert ends[0] == 0
    assert ends[-1] == steps
    assert len(ends) <= engine.REPORTS + 1
    strides = np.diff(ends)
    assert np.all(strides > 0)
    assert len(set(strides[:-1])) <= 1


def test_a_method_of_ones_own_is_tried_around_its_grid(run):
    entry = Method(name="own", factory=mine, kind="optimizer", summary="", example={"b1": 0.1}, grid=0.3)
    _, records = run(entry, rounds=1)
    first = {record["learning_rate"] for record in trainings(records, "own")}
    assert math.sqrt(math.prod(first)) == pytest.approx(0.3, rel=1e-6)
