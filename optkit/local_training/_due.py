"""Averages over workers that are due at different steps, each step's in one message."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optkit.core.types import AxisName
from optkit.core.workers import collectives

Period = int | jax.Array


def average_due(
    trees: Sequence[Any], periods: Sequence[Period], step: jax.typing.ArrayLike, axis_name: AxisName | None
) -> list[Any]:
    """Averages those of several trees over the workers that are due, all in one collective.

    There is one conditional, with a branch for each set of trees that can be due together. So a step sends nothing but
    what is due in it. Periods that are integers rule out most sets; for arrays there is a branch for every set.

    Args:
        trees: Trees of arrays of one worker.
        periods: The period of each tree: it is due in every step whose number is a multiple.
        step: Number of this step, counted from 1. It is equal on all workers.
        axis_name: Name of the axis over workers. None means that there is only one worker.

    Returns:
        The trees, averaged or as they are.

    Example:
        >>> def in_step(step):
        ...     average = jax.vmap(lambda x: average_due([x], [2], step, "workers"), axis_name="workers")
        ...     return average(jnp.array([1.0, 3.0]))[0].tolist()
        >>> in_step(1), in_step(2)
        ([1.0, 3.0], [2.0, 2.0])
    """
    if axis_name is None:
        return list(trees)
    distinct: list[Period] = []
    for period in periods:
        if not any(_same(period, other) for other in distinct):
            distinct.append(period)
    group = [next(index for index, other in enumerate(distinct) if _same(period, other)) for period in periods]
    sets = _sets_due(distinct)

    def averaged(due, trees):
        together = [tree for tree, index in zip(trees, group, strict=True) if due[index]]
        means = iter(collectives.pmean(together, axis_name))
        return [next(means) if due[index] else tree for tree, index in zip(trees, group, strict=True)]

    branches = [functools.partial(averaged, due) for due in sets]
    if len(sets) == 1:
        return branches[0](list(trees))
    number = jnp.asarray(step)
    due = jnp.stack([number % jnp.asarray(period, number.dtype) == 0 for period in distinct])
    return collectives.switch(jnp.argmax(jnp.all(jnp.asarray(sets) == due[None], axis=1)), branches, list(trees))


def _same(period: Period, other: Period) -> bool:
    if isinstance(period, jax.Array) or isinstance(other, jax.Array):
        return period is other
    return period == other


def _sets_due(periods: Sequence[Period]) -> list[tuple[bool, ...]]:
    """Returns, as booleans, which periods can end together: those that divide a common multiple of some of them."""
    integers = [period for period in periods if not isinstance(period, jax.Array)]
    if len(integers) < len(periods):
        return list(itertools.product((False, True), repeat=len(periods)))
    chosen = itertools.chain.from_iterable(itertools.combinations(integers, n) for n in range(len(integers) + 1))
    return sorted({tuple(math.lcm(*some) % period == 0 for period in integers) for some in chosen})
