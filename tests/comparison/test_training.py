"""What every training of a comparison may rely on."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optkit.comparison.baselines import BASELINES
from optkit.comparison.training import Sweep, Trainings, batch_order, make_mesh, schedule
from optkit.method import Method, Paper

SEEDS = (0, 1)
RATES = np.array([0.01, 0.01, 0.1, 0.1], np.float32)  # two rates with two seeds each


def method(factory, **fields):
    paper = Paper("", "", 2026, "")
    fields = {"kind": "optimizer", "example": {"learning_rate": 0.1}, "grid": 0.1} | fields
    return Method(name="probe", factory=factory, family="tests", summary="", paper=paper, **fields)


def trained(task, entry, *, rates=RATES, seeds=SEEDS, steps=20, stops=(20,), **options):
    sweep = Sweep(task, seeds=seeds, points=len(rates) // len(seeds), steps=steps, workers=options.pop("workers", 1))
    trainings = Trainings(sweep, entry, **options)
    values = {entry.tuned: rates}
    (replicas,) = trainings.parts()
    carry = trainings.start(values, replicas)
    first = 0
    for last in stops:
        carry, _, _ = trainings.advance(carry, values, replicas, first, last)
        first = last
    return trainings, carry


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_each_replica_trains_as_if_it_were_alone(line, name):
    _, (params, *_) = trained(line, BASELINES[name], stops=(7, 20))
    for replica, (rate, seed) in enumerate(zip(RATES, np.tile(SEEDS, 2), strict=True)):
        curve = schedule(20)
        rate_at = lambda count, peak=rate, curve=curve: peak * curve(count)  # noqa: E731
        tx = optax.sgd(rate_at, 0.9) if name == "sgd" else optax.adamw(rate_at, weight_decay=0.0)
        alone = line.init(jax.random.key(seed))
        state = tx.init(alone)

        @jax.jit
        def step(params, state, batch):
            updates, state = tx.update(jax.grad(line.loss)(params, batch), state, params)  # noqa: B023
            return optax.apply_updates(params, updates), state

        for rows in batch_order(20, line.batch_size, 20, seed):
            batch = jax.tree.map(lambda leaf, rows=rows: leaf[rows], line.train)
            alone, state = step(alone, state, batch)
        np.testing.assert_allclose(params[replica], alone, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_method_that_acts_every_k_steps_acts_that_often(line):
    acts = []

    class State(NamedTuple):
        count: jax.Array

    def every_ten_steps(learning_rate):
        def update(updates, state, params=None):
            del params

            def act(updates):
                jax.debug.callback(lambda _: acts.append(1), updates)
                return updates

            updates = jax.lax.cond(state.count % 10 == 0, act, lambda updates: updates, updates)
            return updates, State(state.count + 1)

        inner = optax.GradientTransformation(lambda _: State(jnp.zeros((), jnp.int32)), update)
        return optax.chain(inner, optax.scale_by_learning_rate(learning_rate))

    rates = np.repeat(RATES, 4)
    trained(line, method(every_ten_steps), rates=rates, steps=50, stops=(20, 50))
    jax.effects_barrier()
    assert len(acts) == 5 * len(rates)


def test_only_what_differs_between_replicas_is_kept_for_each(line):
    trainings, _ = trained(line, BASELINES["adamw"])
    params, state, _ = trainings.carry
    assert state.count.shape == ()
    assert optax.tree.get(state.inner_state, "mu").shape == params.shape == (4, 3)
    assert state.hyperparams["learning_rate"].shape == (4,)


def test_the_step_passes_value_value_fn_and_grad_fn_of_its_own_batch(line):
    class State(NamedTuple):
        error: jax.Array
        value: jax.Array

    def checking(learning_rate):
        def update(updates, state, params=None, *, value, value_fn, grad_fn, **extra):
            del extra
            error = jnp.abs(value_fn(params) - value) + jnp.abs(grad_fn(params) - updates).sum()
            return -learning_rate * updates, State(state.error + error, value)

        return optax.GradientTransformationExtraArgs(lambda _: State(jnp.zeros(()), jnp.zeros(())), update)

    _, (_, state, _) = trained(line, method(checking))
    np.testing.assert_array_equal(state.inner_state.error, 0)
    assert np.all(state.inner_state.value > 0)


def test_scores_are_those_of_eval_params(line):
    entry = method(optax.sgd, eval_params=lambda _, params: jnp.zeros_like(params))
    trainings, carry = trained(line, entry)
    expected = np.mean(line.validation["y"] ** 2)
    losses = trainings.evaluate(carry, line.validation)["loss"]
    np.testing.assert_allclose(losses.mean(axis=1), np.full(4, expected), rtol=1e-5)


def test_random_methods_draw_by_seed_and_not_by_rate(line):
    def noisy(learning_rate, key):
        return optax.chain(optax.add_noise(1.0, 0.5, key), optax.scale(-learning_rate))

    trainings = Trainings(Sweep(line, seeds=SEEDS, points=2, steps=20), method(noisy, example={"key": 0}))
    _, state, _ = trainings.start({"learning_rate": RATES}, *trainings.parts())
    keys = np.asarray(jax.random.key_data(optax.tree.get(state, "rng_key")))
    np.testing.assert_array_equal(keys[:2], keys[2:])
    assert not np.array_equal(keys[0], keys[1])


@pytest.mark.slow
def test_weight_decay_reaches_methods_that_have_it(line):
    _, (without, *_) = trained(line, BASELINES["adamw"])
    _, (decayed, *_) = trained(line, BASELINES["adamw"], weight_decay=10.0)
    assert np.all(np.abs(decayed[2:]).sum(axis=1) < 0.9 * np.abs(without[2:]).sum(axis=1))


def test_what_is_tuned_in_a_learning_rates_place_has_no_schedule(line):
    entry = method(lambda strength: optax.sgd(strength), tuned="strength", example={"strength": 0.1})  # noqa: PLW0108
    _, (_, state, _) = trained(line, entry)
    np.testing.assert_array_equal(state.hyperparams["strength"], RATES)


def test_methods_for_matrices_are_told_which_leaves_are_hidden_matrices(line):
    given = {}

    def probe(learning_rate, weight_dimension_numbers, leaves, subset_leaves):
        given.update(numbers=weight_dimension_numbers, leaves=leaves, subset_leaves=subset_leaves)
        return optax.sgd(learning_rate)

    numbers = optax.contrib.MuonDimensionNumbers()
    task = dataclasses.replace(line, hidden_matrices=lambda _: {"hidden": numbers, "output": None})
    example = {"learning_rate": 0.1, "subset_leaves": "the entry's own"}
    Trainings(Sweep(task, seeds=(0,), points=1, steps=2), method(probe, example=example))
    params = {"hidden": 1.0, "output": 2.0}
    assert given["numbers"](params) == {"hidden": numbers, "output": None}
    assert given["leaves"](params) == {"hidden": True, "output": False}
    assert given["subset_leaves"] == "the entry's own"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "workers"), [("adamw", 2), ("adamw", 8), ("sophia", 2)])
def test_workers_give_the_result_of_one_device(line, name, workers):
    _, (alone, *_) = trained(line, BASELINES[name])
    _, (shared, *_) = trained(line, BASELINES[name], workers=workers)
    np.testing.assert_allclose(shared, alone, rtol=1e-4, atol=1e-6)


def test_devices_are_shared_out_evenly():
    assert dict(make_mesh(18, 1).shape) == {"replicas": 6, "workers": 1}
    assert dict(make_mesh(18, 3).shape) == {"replicas": 2, "workers": 3}
    assert dict(make_mesh(1, 8).shape) == {"replicas": 1, "workers": 8}


def test_every_epoch_has_every_example_once():
    rows = batch_order(12, 8, 3, seed=0).ravel()
    np.testing.assert_array_equal(np.sort(rows[:12]), np.arange(12))
    np.testing.assert_array_equal(np.sort(rows[12:]), np.arange(12))
    assert not np.array_equal(rows, batch_order(12, 8, 3, seed=1).ravel())


@pytest.mark.parametrize("steps", [1, 2, 30, 1000])
def test_the_schedule_warms_up_and_decays_to_zero(steps):
    curve = np.asarray(jax.jit(schedule(steps))(np.arange(steps)))
    assert np.all((curve > 0) & (curve <= 1))
    peak = curve.argmax()
    assert np.all(np.diff(curve[: peak + 1]) > 0)
    assert np.all(np.diff(curve[peak:]) < 0)
    assert abs(peak - steps // 10) <= 1
    assert curve[-1] <= 10 / steps**2 + (steps < 3)
