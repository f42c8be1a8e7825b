"""How long a run would have taken on a network, by formula."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import links
from experiments.links import Link
from optkit.comparison.records import Record

# For how many workers times are told.
SIZES = (8, 64, 256, 1024)


class Clock(NamedTuple):
    """What times are counted with.

    Attributes:
        networks: what joins the workers.
        step_seconds: how long a worker computes in a step; None for what was measured.
    """

    networks: Sequence[Link]
    step_seconds: float | None = None

    def computing(self, settings: Record, training: Record) -> float:
        """Returns the seconds that a worker computes in a step; this machine does the work of all."""
        if self.step_seconds is not None:
            return self.step_seconds
        return float(np.median(training["milliseconds_per_step"])) / 1e3 / settings["workers"]

    def seconds(self, settings: Record, training: Record, network: Link, workers: int | None = None) -> np.ndarray:
        """Returns the time after each of the steps that a training reports.

        Args:
            settings: the run's.
            training: its record.
            network: what joins the workers.
            workers: their number, if it is another one.
        """
        sent, computing = megabytes(training) * 1e6, self.computing(settings, training)
        if workers not in (None, settings["workers"]):
            last = {kind: curve[-1] for kind, curve in training["sent"].items()}
            factor = links.bytes_sent(last, settings["workers"], workers) / max(sent[-1], 1)
            sent = sent * factor
        pairs = zip(training["steps"], training["exchanges"], sent, strict=True)
        return np.array([step * computing + network.seconds(size, exchanges) for step, exchanges, size in pairs])

    def explanation(self, settings: Record, trainings: Sequence[Record]) -> str:
        """Says how times are counted."""
        latency = 1e3 * self.networks[0].latency
        if self.step_seconds is not None:
            computing = f"{1e3 * self.step_seconds:g} ms, which was given,"
        else:
            found = [1e3 * self.computing(settings, training) for training in trainings]
            computing = (
                f"{min(found):.3g} to {max(found):.3g} ms (the median of what a step of all {settings['workers']}"
                " workers took on this machine, over their number)"
            )
        return (
            f"Time by formula: in a step a worker computes for {computing} and, if it sends, waits {latency:g} ms, and"
            " for its bytes over the bandwidth. Nothing is sent while it computes. Bytes are those of the compiled"
            " program, in the steps in which it sends. With other numbers of workers, n, steps stay as many, and bytes"
            " change as on rings: (n - 1) / n in reductions, n - 1 in gathering, and none with neighbours."
        )


def megabytes(training: Record) -> np.ndarray:
    """Returns what a worker has sent after each of the steps that a training reports."""
    return sum((np.array(curve) for curve in training["sent"].values()), np.zeros(len(training["steps"]))) / 1e6


def common_loss(trainings: Sequence[Record]) -> float | None:
    """Returns the smallest validation loss that all trainings end with or below which improve it; None if none does."""
    curves = [training["validation"]["loss"] for training in trainings]
    return max((curve[-1] for curve in curves if curve[-1] is not None and curve[-1] < curve[0]), default=None)


def first_report(training: Record, loss: float) -> int | None:
    """Returns the number of the first report of a loss as small; None if there is none."""
    reached: Any = (i for i, value in enumerate(training["validation"]["loss"]) if value is not None and value <= loss)
    return next(reached, None)
