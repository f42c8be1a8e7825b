"""What a comparison tries."""

import math

import numpy as np
import optax
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from optkit.catalog import METHODS
from optkit.comparison import ComparisonError, search
from optkit.comparison.baselines import BASELINES
from optkit.comparison.search import Tried, choose, grid, next_rates, next_values
from optkit.method import Method


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


@pytest.mark.parametrize("values", [(0.9, 0.999, "1-log"), (1e-3, 1.0, "log"), (-1.0, 2.0, "linear")])
@given(losses=st.lists(st.floats(0, 10), max_size=8), count=st.integers(2, 9), shift=st.floats(0.01, 0.99))
@example(losses=[0.0], count=3, shift=0.5)
def test_values_of_a_range_are_new_and_inside_it(values, losses, count, shift):
    low, high, _ = values
    tried = {low + (high - low) * (i + shift) / max(len(losses), 1): loss for i, loss in enumerate(losses)}
    chosen = next_values(tried, values, count)
    assert len(set(chosen) - set(tried)) == count
    assert len({np.float32(value) for value in (*chosen, *tried)}) == count + len(tried)
    assert all(low <= value <= high for value in chosen)


def test_values_are_spread_on_their_scale():
    np.testing.assert_allclose(1 - np.array(next_values({}, (0.9, 0.999, "1-log"), 2)), [10**-2.5, 10**-1.5])
    np.testing.assert_allclose(next_values({}, (0.0, 4.0, "linear"), 2), [1.0, 3.0])
    np.testing.assert_allclose(next_values({0.0: 1.0}, (1e-3, 1e-1, "log"), 2), [10**-2.5, 10**-1.5])


def test_rounds_search_one_hyperparameter_each_at_the_best_of_the_others():
    adamw = BASELINES["adamw"]
    own = search.tuned(adamw, ("b2", "weight_decay"), 0.0)
    assert own == {"b2": 0.999, "weight_decay": 0.0}
    tried = []
    for number in range(6):
        points = choose(adamw, own, 1e-3, number, tried, 4)
        changed = ("learning_rate", "b2", "weight_decay")[number % 3]
        if tried:
            best = min(tried, key=lambda one: one.loss).point
            assert all({name for name in point if point[name] != best[name]} == {changed} for point in points)
        tried += [Tried(point, abs(math.log(point["learning_rate"] / 3e-3)) + point["b2"]) for point in points]
    assert len(tried) == 24


def test_methods_say_what_else_is_worth_tuning():
    method = Method(
        name="m",
        factory=lambda learning_rate, gamma=0.1, b1=0.9: optax.sgd(learning_rate, b1 * gamma),
        kind="optimizer",
        summary="",
        tunable={"gamma": (0.01, 1.0, "log"), "b1": (0.5, 0.6, "linear")},
    )
    assert search.tuned(method, ("gamma", "b1"), 0.0) == {"gamma": 0.1, "b1": 0.9}
    assert search.ranges(method)["b1"] == (0.5, 0.6, "linear")


@pytest.mark.parametrize("name", METHODS)
def test_ranges_of_the_catalog_are_of_hyperparameters_that_can_be_arrays(name):
    for argument, (low, high, scale) in METHODS[name].tunable.items():
        assert search.takes(METHODS[name], argument)
        assert low < high
        assert scale in {"linear", "log", "1-log"}


@pytest.mark.parametrize(
    ("tune", "words"),
    [
        (("b2", "b2"), "at most 2 different names"),
        (("b1", "b2", "eps"), "at most 2 different names"),
        ("b2", "at most 2 different names"),
        (("b7",), "none of the optimizers has a hyperparameter 'b7' to tune; there are b1, b2, eps, weight_decay"),
    ],
)
def test_what_cannot_be_tuned_is_named(tune, words):
    with pytest.raises(ComparisonError, match=words):
        search.check_tune(tune, [BASELINES["adamw"]])
