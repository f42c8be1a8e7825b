"""Which hyperparameters a comparison tries: the same number of choices for every optimizer."""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from optkit.comparison.errors import ComparisonError
from optkit.method import Method, Range

# Neighbouring learning rates of the first round are this far apart.
SPACING = math.sqrt(10)
# What is worth tuning in every optimizer that has it.
RANGES: Mapping[str, Range] = {
    "b1": (0.8, 0.99, "1-log"),
    "b2": (0.9, 0.9999, "1-log"),
    "eps": (1e-10, 1e-4, "log"),
    "momentum": (0.8, 0.99, "1-log"),
    "weight_decay": (1e-3, 1.0, "log"),
}
# More of them would leave too few choices for each.
MOST_TUNED = 2
# A choice of hyperparameters, by name.
Point = dict[str, float]


class Tried(NamedTuple):
    """A choice of hyperparameters and what came of it.

    Attributes:
        point: The choice.
        loss: The validation loss at the end, mean over seeds; infinite if a training diverged.
    """

    point: Point
    loss: float


def takes(method: Method, name: str) -> bool:
    """Returns whether an optimizer has a hyperparameter of this name that may be an array."""
    parameter = inspect.signature(method.optimizer_factory).parameters.get(name)
    if parameter is None:
        return False
    return parameter.annotation in (float, "float", parameter.empty) or name not in method.static


def tuned(method: Method, tune: Sequence[str], weight_decay: float) -> dict[str, float]:
    """Returns which hyperparameters of an optimizer are tuned beside the learning rate, and their own values.

    Args:
        method: The optimizer.
        tune: What is to be tuned.
        weight_decay: That of all optimizers that have one.
    """
    values = {}
    for name in tune:
        if name == method.tuned or not takes(method, name) or name not in ranges(method):
            continue
        default = inspect.signature(method.optimizer_factory).parameters[name].default
        value = weight_decay if name == "weight_decay" else method.arguments.get(name, default)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            values[name] = float(value)
    return values


def ranges(method: Method) -> dict[str, Range]:
    """Returns the ranges in which hyperparameters of an optimizer are tuned, by name."""
    return {**RANGES, **method.tunable}


def check_tune(tune: Sequence[str], methods: Sequence[Method]) -> None:
    """Raises if hyperparameters are to be tuned that cannot be.

    Raises:
        ComparisonError: If there are too many of them, or no optimizer has a range for one.
    """
    if isinstance(tune, str) or len(set(tune)) != len(tune) or len(tune) > MOST_TUNED:
        raise ComparisonError(f"tune must be at most {MOST_TUNED} different names of hyperparameters, got {tune!r}")
    for name in tune:
        if not any(tuned(method, [name], 0.0) for method in methods):
            known = sorted({other for method in methods for other in ranges(method) if tuned(method, [other], 0.0)})
            raise ComparisonError(
                f"none of the optimizers has a hyperparameter {name!r} to tune; there are {', '.join(known) or 'none'}"
            )


def grid(center: float, count: int) -> list[float]:
    """Returns the learning rates of the first round: log-spaced around `center`."""
    return [center * SPACING ** (i - (count - 1) / 2) for i in range(count)]


def choose(
    method: Method, own: Mapping[str, float], center: float, number: int, tried: Sequence[Tried], count: int
) -> list[Point]:
    """Chooses what a round tries. Rounds search one hyperparameter each, in turn, at the best values of the others.

    Args:
        method: The optimizer.
        own: The hyperparameters that are tuned beside `method.tuned`, and their own values.
        center: Centre of the first round's learning rates.
        number: The round, counted from 0.
        tried: What earlier rounds tried.
        count: How many choices a round has.

    Returns:
        New points.

    Raises:
        ComparisonError: If they differ by less than float32 can represent.
    """
    if not tried:
        points = [{method.tuned: rate, **own} for rate in grid(center, count)]
    else:
        name = (method.tuned, *own)[number % (1 + len(own))]
        # The first one where all diverged.
        best = min(tried, key=lambda one: one.loss).point
        others = {other: value for other, value in best.items() if other != name}
        along = {point[name]: loss for point, loss in tried if {**point, name: 0.0} == {**others, name: 0.0}}
        along = {value: along[value] for value in sorted(along)}
        is_rate = name == method.tuned
        values = next_rates(along, count) if is_rate else next_values(along, ranges(method)[name], count)
        points = [{**best, name: value} for value in values]
    known = [
        tuple(np.asarray(list(point.values()), np.float32).tolist())
        for point in [*(one.point for one in tried), *points]
    ]
    if len(set(known)) < len(known):
        raise ComparisonError(
            f"in round {number + 1} learning rates of {method.name} differ by less than float32 can represent; "
            f"ask for {number} rounds"
        )
    return points


def next_rates(losses: Mapping[float, float], count: int) -> list[float]:
    """Chooses the learning rates of a further round, as many for every optimizer.

    Half of them go to either side of the best rate so far: evenly (in logarithms) between it and its neighbour or,
    where it lies on the edge of what was tried, onwards beyond it at the first round's spacing.

    Args:
        losses: Final validation loss by learning rate, ascending; infinite where training diverged.
        count: How many rates to choose.

    Returns:
        New rates, ascending.
    """
    rates = list(losses)
    best = int(np.argmin(list(losses.values())))
    below, above = count // 2, count - count // 2
    if best > 0:
        lower = np.geomspace(rates[best - 1], rates[best], below + 2)[1:-1].tolist()
    else:
        lower = [rates[0] * SPACING**-i for i in range(below, 0, -1)]
    if best < len(rates) - 1:
        upper = np.geomspace(rates[best], rates[best + 1], above + 2)[1:-1].tolist()
    else:
        upper = [rates[-1] * SPACING**i for i in range(1, above + 1)]
    return lower + upper


def next_values(losses: Mapping[float, float], values: Range, count: int) -> list[float]:
    """Chooses values of a hyperparameter that has a range.

    Evenly over its range, on its scale, away from a single one that has been tried; once there are two, between the
    best one and its neighbours, or the end of the range.

    Args:
        losses: Final validation loss by value, ascending; infinite where training diverged.
        values: The range and its scale.
        count: How many values to choose.

    Returns:
        New values.
    """
    low, high, scale = values
    start, end = sorted((_onto(low, scale), _onto(high, scale)))
    inside = {float(_onto(value, scale)): loss for value, loss in losses.items() if low <= value <= high}
    if len(inside) < 2:
        cells = count + len(inside)
        chosen = start + (np.arange(cells) + 0.5) / cells * (end - start)
        for place in inside:
            chosen = np.delete(chosen, np.argmin(abs(chosen - place)))
    else:
        places = sorted(inside)
        best = min(range(len(places)), key=lambda i: inside[places[i]])
        before = places[best - 1] if best else start
        after = places[best + 1] if best < len(places) - 1 else end
        below = 0 if before == places[best] else count if after == places[best] else count // 2
        chosen = np.concatenate(
            [
                np.linspace(before, places[best], below + 2)[1:-1],
                np.linspace(places[best], after, count - below + 2)[1:-1],
            ]
        )
    return [float(_back(place, scale)) for place in chosen]


def _onto(value: Any, scale: str) -> float:
    """A value's place on its scale."""
    return value if scale == "linear" else np.log(value) if scale == "log" else np.log(1 - value)


def _back(place: Any, scale: str) -> float:
    return place if scale == "linear" else np.exp(place) if scale == "log" else 1 - np.exp(place)
