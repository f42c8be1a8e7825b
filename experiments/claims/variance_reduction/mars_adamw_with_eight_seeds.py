"""MARS-AdamW beside AdamW on the smaller language model, with enough seeds to tell."""

from experiments import compare
from experiments.claims import Claim, Finding, judge

OPTIONS = compare.Options(task="bytes-lm-small", optimizers=("mars_adamw",), rates=4, rounds=2, seeds=8)


def measure(options: compare.Options = OPTIONS) -> Finding:
    """Runs the comparison, or continues it.

    Args:
        options: what to compare; without `out`, in a folder named after the source.

    Returns:
        What came out.
    """
    rows = judge.compared("mars-adamw-small", options)
    mars, adamw = rows["mars_adamw"], rows["adamw"]
    mean, low, high, _ = mars.difference
    return Finding(
        f"MARS-AdamW {judge.figures(mars)}; AdamW {judge.figures(adamw)}; {mean:+.4f} ({low:+.4f} to {high:+.4f})",
        bool(high < 0),
        lambda axes: judge.draw_curves(axes, {"mars_adamw": mars, "adamw": adamw}),
    )


CLAIM = Claim(
    method="mars_adamw",
    arxiv="2411.10438",
    statement="MARS-AdamW trains language models to a lower loss than AdamW in as many steps.",
    experiment="Test loss of a small transformer on the bytes of Python's standard library (`bytes-lm-small`, 400"
    f" steps), {judge.tuning(OPTIONS)}, approximate and clipped as by default, no weight decay.",
    required="a lower one (95% interval, paired by seed)",
    measure=measure,
)
