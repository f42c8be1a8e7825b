"""`bytes-lm` with half its width, context and depth, small enough for 25 optimizers in an hour on two cores.

The reference figure is the loss of a table, the frequencies of all pairs of bytes in the training text: about 2.41 nats
a byte, a little more or less with other versions of Python.
"""

import dataclasses

import numpy as np

from experiments.tasks import bytes_lm
from optkit.comparison.task import Task


def task() -> Task:
    """Returns the task."""
    small = bytes_lm.task(context=32, width=32, heads=2, layers=1, steps=400)
    reference = {"loss": bigram_loss(small.train, small.test)}
    return dataclasses.replace(small, facts={**small.facts, "reference": reference})


def bigram_loss(train: np.ndarray, test: np.ndarray) -> float:
    """Returns the mean loss of predicting each byte from the one before it, by how often the pairs occur.

    Args:
        train: windows of bytes, whose pairs are counted, every possible one once more than it occurs.
        test: windows of bytes, whose pairs are predicted.
    """

    def count(windows):
        pairs = 256 * windows[:, :-1].astype(int) + windows[:, 1:]
        return np.bincount(pairs.ravel(), minlength=256**2).reshape(256, 256)

    seen, predicted = count(train) + 1, count(test)
    return float(np.sum(predicted * np.log(seen.sum(axis=1, keepdims=True) / seen)) / predicted.sum())
