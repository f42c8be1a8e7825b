"""Adam with subset norms and subspace momentum beside AdamW on a small language model, under equal tuning."""

import dataclasses

from experiments import compare
from experiments.claims import Claim, Finding, judge
from optkit.catalog import METHODS
from optkit.memory_efficient import subspace_projector

RANK, GAP = 16, 50
OPTIONS = compare.Options(task="bytes-lm", optimizers=("adam_snsm",), steps=150, rates=4, rounds=2, seeds=2)


def measure(options: compare.Options = OPTIONS) -> Finding:
    """Runs the comparison, or continues it.

    Args:
        options: what to compare; without `out`, in a folder named after the source.

    Returns:
        What came out.
    """
    example = {"projector": subspace_projector("svd", rank=RANK), "update_gap": GAP}
    entry = dataclasses.replace(METHODS["adam_snsm"], example=example)
    rows = judge.compared("snsm-adamw", options, [entry])
    shown = {"Adam-SNSM": rows["adam_snsm"], "AdamW": rows["adamw"]}
    saved = 1 - rows["adam_snsm"].state_bytes_per_parameter / rows["adamw"].state_bytes_per_parameter
    return Finding(
        measured="; ".join(f"{name} {judge.figures(row)}" for name, row in shown.items())
        + f"; {saved:.0%} of AdamW's state saved, embeddings and the last layer included, which have all of it",
        holds=None,
        draw=lambda axes: judge.draw_curves(axes, shown),
    )


CLAIM = Claim(
    method="adam_snsm",
    arxiv="2411.07120",
    statement="With subset norms and subspace momentum Adam trains language models as well, with a fraction of its"
    " state.",
    experiment=(
        f"Test loss of a small transformer on the bytes of Python's standard library (`bytes-lm`), {OPTIONS.steps}"
        f" steps, {judge.tuning(OPTIONS)}; momentum in {RANK} singular vectors of hidden matrices, a quarter of"
        f" them, new ones every {GAP} steps; Adam on all other parameters; no weight decay."
    ),
    required="reported as found",
    measure=measure,
)
