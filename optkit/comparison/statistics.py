"""Differences between optimizers that trained from the same seeds, and how far they can be trusted."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy

# Bootstrap intervals of few values are too narrow: nominal 95% of 5 values cover 84%.
LEAST_FOR_BOOTSTRAP = 10
MOST_FOR_BOOTSTRAP = 1_000
RESAMPLES = 9_999
LEVEL = 0.95


class Estimate(NamedTuple):
    """A mean with its 95% interval.

    Attributes:
        mean: The mean.
        low: Lower end of the interval; NaN for a single value.
        high: Upper end of the interval; NaN for a single value.
        p: Two-sided p-value of a t test that the mean is zero; NaN for a single value.
    """

    mean: float
    low: float
    high: float
    p: float


def student(values: np.ndarray) -> Estimate:
    """Estimates a mean with Student's t interval.

    Args:
        values: Independent values, for example one a seed. If they are not all finite, nothing can be said of them.

    Returns:
        The mean, its 95% interval, and the p-value of a t test. Equal values have an interval of no width.
    """
    mean = float(np.mean(values))
    if len(values) < 2 or not np.isfinite(values).all():
        return Estimate(mean, math.nan, math.nan, math.nan)
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    # Values that differ by rounding only are equal.
    if error <= 4 * np.finfo(float).eps * float(np.max(np.abs(values))):
        return Estimate(mean, mean, mean, 1.0 if mean == 0 else 0.0)
    test = scipy.stats.ttest_1samp(values, 0.0)
    _, p = np.asarray(test, float)
    low, high = test.confidence_interval(LEVEL)
    return Estimate(mean, float(low), float(high), float(p))


def estimate(values: np.ndarray) -> Estimate:
    """Estimates a mean as `student` does, but with a bootstrap interval (BCa) where there are enough values.

    Args:
        values: Independent values. From 10 to 1,000 of them are resampled; of more, both intervals are the same.

    Returns:
        The mean, its 95% interval, and the p-value of a t test.
    """
    found = student(values)
    if not LEAST_FOR_BOOTSTRAP <= len(values) <= MOST_FOR_BOOTSTRAP or not found.low < found.high:
        return found
    low, high = scipy.stats.bootstrap(
        (values,), np.mean, confidence_level=LEVEL, n_resamples=RESAMPLES, rng=np.random.default_rng(0)
    ).confidence_interval
    return found._replace(low=float(low), high=float(high))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Corrects p-values of several tests, so that one false finding among all of them is as unlikely as of one alone.

    Args:
        p_values: Of the tests. NaN is no test.

    Returns:
        The corrected p-values (Holm), in the same order.
    """
    p = np.asarray(p_values, float)
    corrected = np.full(len(p), math.nan)
    tests = np.flatnonzero(~np.isnan(p))
    order = tests[np.argsort(p[tests], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1.0)
    return corrected


def power(difference: float, deviation: float, seeds: int) -> float:
    """Returns how likely a two-sided t test at 5% finds a mean difference.

    Args:
        difference: The mean of the paired differences.
        deviation: Their standard deviation, above 0.
        seeds: How many there are, at least 2.
    """
    freedom = seeds - 1
    limit = scipy.stats.t.ppf((1 + LEVEL) / 2, freedom)
    shift = abs(difference) / deviation * math.sqrt(seeds)
    # Where the other tail is too small for it, SciPy returns NaN.
    return float(scipy.stats.nct.sf(limit, freedom, shift) + np.nan_to_num(scipy.stats.nct.cdf(-limit, freedom, shift)))


def smallest_difference(deviation: float, seeds: int, likely: float = 0.8) -> float:
    """Returns the smallest mean difference that a t test at 5% is likely to find.

    Args:
        deviation: Standard deviation of the paired differences, at least 0.
        seeds: How many there are.
        likely: How likely, in (0.05, 1).

    Returns:
        The difference; NaN with fewer than two seeds.
    """
    if seeds < 2:
        return math.nan
    if deviation == 0:
        return 0.0
    highest = 1.0  # in units of the deviation
    while power(highest, 1.0, seeds) < likely:
        highest *= 2
    found = scipy.optimize.root_scalar(lambda size: power(size, 1.0, seeds) - likely, bracket=(0.0, highest))
    return deviation * float(found.root)


def seeds_needed(difference: float, deviation: float, likely: float = 0.8, most: int = 1_000) -> int | None:
    """Returns the least number of seeds with which a t test at 5% is likely to find a mean difference.

    Args:
        difference: The mean of the paired differences, not 0.
        deviation: Their standard deviation, at least 0.
        likely: How likely, in (0.05, 1).
        most: The largest number that is tried.

    Returns:
        The number, or None if it is larger than `most`.
    """
    if deviation == 0:
        return 2
    return next((seeds for seeds in range(2, most + 1) if power(difference, deviation, seeds) >= likely), None)
