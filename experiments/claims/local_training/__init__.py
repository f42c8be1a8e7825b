"""Claims about local training, whose workers take several steps between two synchronizations.

Some of them are measured on digits that were dealt to workers evenly.
"""

import concurrent.futures
import math
import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax

import optkit
from experiments import tasks
from experiments.claims import Finding, trainings
from experiments.claims.trainings import DIGITS, Scores
from optkit.comparison import statistics


def on_digits(
    build: Callable[[Any], optax.GradientTransformation],
    rates: Sequence[float],
    *,
    workers: int,
    batch_size: int,
    steps: int,
    seeds: int,
    report: Callable[[Any, Any], Any] | None = None,
) -> Scores:
    """Trains the digits perceptron on workers that have equal parts of the examples.

    Args:
        build: makes a worker's optimizer from a learning rate.
        rates: from which the best one is taken, by validation loss.
        workers: their number.
        batch_size: examples in one worker's batch.
        steps: length of a training.
        seeds: the number of trainings at each rate.
        report: finds the parameters to report, see `train_on_workers`; by default the workers' mean.

    Returns:
        The scores by seed at the best rate.
    """
    task = tasks.load(DIGITS)
    rows = trainings.dealt(task, workers=workers, alpha=math.inf, batch_size=batch_size, steps=steps, seeds=seeds)
    return trainings.train_on_workers(task, build, rates, rows, report=report).at_best("loss")


def figures(scores: Scores) -> str:
    """Writes the mean test loss, and the rate."""
    return f"{np.mean(scores.test['loss']):.4f} (rate {scores.setting:g})"


def ratio(ours: Scores, theirs: Scores) -> tuple[statistics.Estimate, str]:
    """Estimates the ratio of two test losses, paired by seed.

    Returns:
        The logarithm with its interval, and the ratio in words.
    """
    found = statistics.student(np.log(ours.test["loss"] / theirs.test["loss"]))
    mean, low, high = np.exp(found[:3])
    return found, f"{mean:.2f} times ({low:.2f} to {high:.2f})"


def lower_loss(ours: Scores, theirs: Scores) -> Finding:
    """Finds out whether a test loss is lower, beyond doubt."""
    return Finding(_compared(ours, theirs), ratio(ours, theirs)[0].high < 0)


def loss_at_most(times: float, ours: Scores, theirs: Scores) -> Finding:
    """Finds out whether a test loss is on average at most so many times another."""
    return Finding(_compared(ours, theirs), bool(np.exp(ratio(ours, theirs)[0].mean) <= times))


def _compared(ours, theirs):
    return (
        f"test loss {figures(ours)} against {figures(theirs)}, {ratio(ours, theirs)[1]}; test accuracy"
        f" {np.mean(ours.test['accuracy']):.2%} against {np.mean(theirs.test['accuracy']):.2%}"
    )


def largest_synchronizations(*builds: Callable[[Any], optax.GradientTransformation], workers: int) -> list[int]:
    """Counts bytes in a process of its own, since a device for each worker is needed, set up before JAX starts.

    Args:
        builds: functions at the top of a module that make a worker's optimizer from a learning rate.
        workers: their number.

    Returns:
        The bytes that a worker of each sends in its largest synchronization, with the digits perceptron.
    """
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_sent, builds, workers).result()


def _sent(builds, workers):
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", workers)
    params = jax.eval_shape(tasks.load(DIGITS).init, jax.random.key(0))
    costs = [optkit.cost(build(1e-3), params, axis_name="workers", axis_size=workers) for build in builds]
    return [sum((spent.sent_when_taken or {}).values()) for spent in costs]
