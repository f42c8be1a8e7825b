"""Examples dealt to workers, unevenly."""

import math

import jax
import numpy as np

from experiments.errors import UserError
from optkit.comparison.task import Task
from optkit.comparison.training import batch_order

_TRIALS = 100


def deal(task: Task, *, workers: int, alpha: float, least: int, seed: int) -> list[np.ndarray]:
    """Deals the training examples: of each class, every worker gets a share drawn from a Dirichlet distribution.

    Args:
        task: whose examples they are.
        workers: the number of workers.
        alpha: the distribution's concentration, positive: the smaller, the fewer workers share a class. Infinite for
            equal parts of all examples, whatever their classes.
        least: how many examples each worker must get; shares are drawn again until it does.
        seed: of the draws.

    Returns:
        The rows of each worker's examples.

    Raises:
        UserError: if the task has no classes, or too few examples for so many workers.
    """
    random = np.random.default_rng(seed)
    count = len(jax.tree.leaves(task.train)[0])
    if workers * least > count:
        raise UserError(f"{workers} workers cannot get {least} examples each: there are {count}")
    if math.isinf(alpha):
        return np.array_split(random.permutation(count), workers)
    if task.labels is None:
        raise UserError("the task has no classes to deal unevenly; --alpha inf deals its examples evenly")
    labels = np.asarray(task.labels(task.train))
    for _ in range(_TRIALS):
        parts = []
        for label in range(task.classes):
            members = random.permutation(np.flatnonzero(labels == label))
            shares = random.dirichlet(np.full(workers, alpha))
            parts.append(np.split(members, np.rint(np.cumsum(shares)[:-1] * len(members)).astype(int)))
        rows = [np.concatenate(part) for part in zip(*parts, strict=True)]
        if min(map(len, rows)) >= least:
            return rows
    raise UserError(
        f"in {_TRIALS} draws with --alpha {alpha:g} some of {workers} workers always got fewer than {least} examples:"
        " raise --alpha, or take fewer workers"
    )


def batches(parts: list[np.ndarray], *, batch_size: int, steps: int, seed: int) -> np.ndarray:
    """Orders each worker's batches: one random order of its own examples after another.

    Args:
        parts: from `deal`.
        batch_size: examples in one worker's batch.
        steps: how many batches.
        seed: of the draws.

    Returns:
        Rows of examples, `(workers, steps, batch_size)`.
    """
    return np.stack(
        [part[batch_order(len(part), batch_size, steps, seed * len(parts) + i)] for i, part in enumerate(parts)]
    ).astype(np.int32)
