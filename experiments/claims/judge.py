"""What claims share that run the judge: optimizers under equal tuning, their figures and learning curves."""

import dataclasses
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import experiments
from experiments import compare
from optkit.comparison import Comparison, Row, environment, statistics
from optkit.comparison.terminal import Terminal
from optkit.method import Method


def compared(name: str, options: compare.Options, entries: Sequence[Method] | None = None) -> dict[str, Row]:
    """Runs a comparison, or continues it.

    Args:
        name: the claim's, for the run's folder.
        options: what to compare; without `out`, in a folder named after the source.
        entries: optimizers in place of those that `options` names, such as some with arguments of their own.

    Returns:
        What came out for each optimizer, AdamW among them, by name.
    """
    folder = options.out or pathlib.Path("runs", f"claim-{name}-{environment.versions(experiments)['source'][:8]}")
    compare.run(dataclasses.replace(options, out=folder), Terminal(io.StringIO()), entries)
    return {row.optimizer: row for row in Comparison.read(folder).rows}


def tuning(options: compare.Options) -> str:
    """Says of an experiment's description how everyone was tuned."""
    return f"{options.rates * options.rounds} learning rates for each, {options.seeds} seeds"


def figures(row: Row) -> str:
    """Says what came out for one optimizer."""
    mean, half = row.test["loss"]
    return (
        f"{mean:.4f} ± {half:.4f} (rate {row.rates[row.best]:.2g}, {row.relative_time:.2f}x the time a step,"
        f" {row.state_bytes_per_parameter:.0f} bytes of state a parameter)"
    )


def least(rows: Mapping[str, Row]) -> str:
    """Says what came out where the least loss is zero: mean test losses and rates.

    Args:
        rows: what came out, by the name to show.
    """
    return ", ".join(f"{name} {row.test['loss'][0]:.2e} (rate {row.rate:.2g})" for name, row in rows.items())


def log_ratio(ours: Row, theirs: Row) -> tuple[statistics.Estimate, str]:
    """Estimates the ratio of two test losses, paired by seed.

    Returns:
        The logarithm with its interval, and the ratio in words.
    """
    found = statistics.student(np.log(ours.test_losses / theirs.test_losses))
    mean, low, high = np.exp(found[:3])
    return found, f"{mean:.2f} times ({low:.2f} to {high:.2f})"


def draw_curves(axes: Any, rows: Mapping[str, Row]) -> None:
    """Draws the learning curves at the best rates.

    Args:
        axes: Matplotlib's.
        rows: what came out, by the name to show.
    """
    for name, row in rows.items():
        axes.plot(row.steps, row.curves.mean(axis=0), label=f"{name}, rate {row.rates[row.best]:.2g}")
    axes.set_xlabel("step")
    axes.set_ylabel("validation loss")
    axes.legend()
