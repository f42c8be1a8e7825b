"""MARS-AdamW beside AdamW on a small language model, under equal tuning."""

import dataclasses
import os
import pathlib

from rich.console import Console

from experiments import compare, environment, report
from experiments.claims import Claim, Finding
from experiments.report import Row
from experiments.store import read_records

OPTIONS = compare.Options(
    task="bytes-lm",
    optimizers=("mars_adamw",),
    rates=4,
    rounds=2,
    seeds=2,
)


def measure(options: compare.Options = OPTIONS) -> Finding:
    """Runs the comparison, or continues it.

    Args:
        options: what to compare; without `out`, in a folder named after the source.

    Returns:
        What came out.
    """
    folder = options.out or pathlib.Path("runs", f"claim-mars-adamw-{environment.versions()['source'][:8]}")
    with pathlib.Path(os.devnull).open("w") as nowhere:
        compare.run(dataclasses.replace(options, out=folder), Console(file=nowhere))
    rows = {row.optimizer: row for row in report.summarize(read_records(folder))}
    mars, adamw = rows["mars_adamw"], rows["adamw"]

    def draw(axes):
        for row in (mars, adamw):
            axes.plot(row.steps, row.curves.mean(axis=0), label=f"{row.optimizer}, rate {row.rates[row.best]:.2g}")
        axes.set_xlabel("step")
        axes.set_ylabel("validation loss")
        axes.legend()

    return Finding(measured=f"MARS-AdamW {_figures(mars)}; AdamW {_figures(adamw)}", holds=None, draw=draw)


def _figures(row: Row) -> str:
    mean, half = row.test["loss"]
    return (
        f"{mean:.4f} ± {half:.4f} (rate {row.rates[row.best]:.2g}, {row.relative_time:.2f}x the time a step,"
        f" {row.state_bytes_per_parameter:.0f} bytes of state a parameter)"
    )


CLAIM = Claim(
    method="mars_adamw",
    arxiv="2411.10438",
    statement="MARS-AdamW trains language models to a lower loss than AdamW in as many steps.",
    experiment=(
        f"Test loss of a small transformer on the bytes of Python's standard library (`bytes-lm`),"
        f" {OPTIONS.rates * OPTIONS.rounds} learning rates for each, {OPTIONS.seeds} seeds, approximate and clipped as"
        " by default, no weight decay."
    ),
    required="reported as found",
    measure=measure,
)
