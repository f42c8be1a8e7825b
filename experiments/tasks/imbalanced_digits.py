"""Handwritten digits, some of them rare in training and none in testing; a perceptron with one hidden layer of 64.

The training set is long-tailed: from each digit to the next the number of examples falls by the same factor, from all
there are of the 0 to five of the 9. `minority_recall` is the accuracy on the three rarest digits.
"""

import dataclasses

import jax
import numpy as np

from experiments import digits, models
from experiments.tasks.digits_mlp import Perceptron
from optkit.comparison.task import Task

RAREST = 5
MINORITY = 3


def task() -> Task:
    """Returns the task."""
    balanced = digits.task(Perceptron)
    _, apply = models.functional(Perceptron)
    labels = balanced.train["label"].argmax(axis=1)
    counts = np.geomspace(np.bincount(labels).min(), RAREST, 10).round().astype(int)
    rows = np.concatenate([np.flatnonzero(labels == digit)[:count] for digit, count in enumerate(counts)])
    rows = np.random.default_rng(0).permutation(rows)

    share = balanced.test["label"][:, -MINORITY:].sum(axis=1).mean()

    def minority_recall(params, split):
        """Of each example, so that the mean is the recall."""
        rare = split["label"][:, -MINORITY:].sum(axis=1)
        hits = apply(params, split["image"]).argmax(axis=-1) == split["label"].argmax(axis=-1)
        return hits * rare / share

    def metrics(params, split):
        return {**balanced.metrics(params, split), "minority_recall": minority_recall(params, split)}

    return dataclasses.replace(
        balanced,
        train=jax.tree.map(lambda leaf: leaf[rows], balanced.train),
        metrics=metrics,
        batch_size=32,
        facts={
            "data": "scikit-learn digits, training set made long-tailed",
            "examples": {**balanced.facts["examples"], "train": len(rows)},
            "examples_of_each_class": counts.tolist(),
        },
    )
