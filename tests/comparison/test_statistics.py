"""Intervals cover what they say, corrected tests find nothing where nothing is, and ties are ties."""

import math

import numpy as np
import pytest
from scipy import stats

from optkit.comparison import statistics


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_intervals_of_few_values_cover_the_mean_in_95_of_100_cases(seeds):
    draws = np.random.default_rng(0).normal(1.0, 2.0, (4_000, seeds))
    covered = np.mean([low <= 1.0 <= high for _, low, high, _ in map(statistics.estimate, draws)])
    assert covered == pytest.approx(0.95, abs=0.015)


def test_from_ten_values_on_the_interval_is_that_of_a_bootstrap():
    values = np.random.default_rng(1).exponential(1.0, 12)
    found = statistics.estimate(values)
    expected = stats.bootstrap((values,), np.mean, n_resamples=9_999, rng=np.random.default_rng(0)).confidence_interval
    assert (found.low, found.high) == (expected.low, expected.high)
    assert found.high - found.mean > found.mean - found.low  # skewed as the values are


def test_the_p_value_is_that_of_scipys_t_test():
    values = np.array([0.3, 0.1, 0.4, -0.1])
    assert statistics.estimate(values).p == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue, rel=1e-12)


def test_ties_are_ties():
    assert statistics.estimate(np.zeros(3)) == (0.0, 0.0, 0.0, 1.0)


def test_equal_differences_are_certain():
    assert statistics.estimate(np.full(3, 0.1)) == (pytest.approx(0.1), pytest.approx(0.1), pytest.approx(0.1), 0.0)


@pytest.mark.parametrize("values", [[1.0], [1.0, math.inf, 2.0], [1.0, math.nan]])
def test_nothing_is_said_of_one_value_or_of_diverged_ones(values):
    found = statistics.estimate(np.array(values))
    assert np.isnan([found.low, found.high, found.p]).all()


def test_holms_correction_of_a_textbook_example():
    np.testing.assert_allclose(statistics.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])


def test_what_is_no_test_does_not_count():
    np.testing.assert_array_equal(statistics.holm([0.02, math.nan, 0.5]), [0.04, math.nan, 0.5])
    assert statistics.holm([]).shape == (0,)


def test_corrected_tests_rarely_find_something_where_nothing_is():
    draws = np.random.default_rng(2).normal(0.0, 1.0, (1_000, 8, 5))
    p = stats.ttest_1samp(draws, 0.0, axis=-1).pvalue
    false = np.mean([np.any(statistics.holm(family) < 0.05) for family in p])
    assert false < 0.07
    assert np.mean(np.any(p < 0.05, axis=1)) > 0.25  # what the correction is for


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_the_smallest_difference_is_found_in_four_of_five_runs(seeds):
    difference = statistics.smallest_difference(2.0, seeds)
    draws = np.random.default_rng(3).normal(difference, 2.0, (4_000, seeds))
    assert np.mean(stats.ttest_1samp(draws, 0.0, axis=-1).pvalue < 0.05) == pytest.approx(0.8, abs=0.03)


def test_as_many_seeds_are_needed_as_show_the_difference():
    needed = statistics.seeds_needed(1.0, 1.0)
    assert statistics.smallest_difference(1.0, needed) <= 1.0 < statistics.smallest_difference(1.0, needed - 1)
    assert statistics.seeds_needed(1e-6, 1.0) is None


def test_without_spread_two_seeds_show_everything():
    assert (statistics.smallest_difference(0.0, 2), statistics.seeds_needed(0.1, 0.0)) == (0.0, 2)


def test_one_seed_shows_nothing():
    assert math.isnan(statistics.smallest_difference(1.0, 1))
