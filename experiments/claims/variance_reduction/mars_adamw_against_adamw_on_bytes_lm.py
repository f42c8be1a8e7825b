"""MARS-AdamW beside AdamW on a small language model, under equal tuning."""

from experiments import compare
from experiments.claims import Claim, Finding, judge

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
    rows = judge.compared("mars-adamw", options)
    mars, adamw = rows["mars_adamw"], rows["adamw"]
    return Finding(
        measured=f"MARS-AdamW {judge.figures(mars)}; AdamW {judge.figures(adamw)}",
        holds=None,
        draw=lambda axes: judge.draw_curves(axes, {"mars_adamw": mars, "adamw": adamw}),
    )


CLAIM = Claim(
    method="mars_adamw",
    arxiv="2411.10438",
    statement="MARS-AdamW trains language models to a lower loss than AdamW in as many steps.",
    experiment=(
        f"Test loss of a small transformer on the bytes of Python's standard library (`bytes-lm`),"
        f" {judge.tuning(OPTIONS)}, approximate and clipped as by default, no weight decay."
    ),
    required="reported as found",
    measure=measure,
)
