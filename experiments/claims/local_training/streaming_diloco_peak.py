"""Streaming DiLoCo against DiLoCo: the same loss, with a fourth of the bytes in the largest synchronization."""

from typing import Any

import jax
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.local_training import figures, largest_synchronizations, ratio
from experiments.claims.local_training.diloco_outer_momentum import (
    EVERY,
    STATED,
    TUNED,
    WORKERS,
    diloco,
    schedule,
    trained,
)

FRAGMENTS, DELAY, ALPHA, MARGIN, PEAK = 4, 2, 0.5, 1.05, 0.26


def labels(params: Any) -> Any:
    """Cuts each leaf into as many parts as there are fragments, along its first axis."""
    return jax.tree.map(lambda x: np.arange(len(x)) * FRAGMENTS // len(x), params)


def streaming(rate: Any) -> optax.GradientTransformation:
    """Makes Streaming DiLoCo with the outer step of DiLoCo."""
    options = {"fragments": labels, "delay": DELAY, "alpha": ALPHA}
    return optkit.streaming_diloco(schedule(rate), EVERY, 0.7, 0.9, axis_name="workers", **options)


def measure() -> Finding:
    """Trains with both, and counts bytes."""
    part, whole = largest_synchronizations(streaming, diloco, workers=WORKERS)
    ours, theirs = trained(streaming), trained(diloco)
    found, shown = ratio(ours, theirs)
    return Finding(
        f"test loss {figures(ours)} against {figures(theirs)}, {shown}; {part:,} bytes against {whole:,},"
        f" {part / whole:.3f} of them",
        bool(np.exp(found.mean) <= MARGIN and part <= PEAK * whole),
    )


CLAIM = Claim(
    method="streaming_diloco",
    arxiv="2501.18512",
    statement=f"Streaming DiLoCo reaches the loss of DiLoCo, and sends 1/{FRAGMENTS} of the bytes at a time.",
    experiment=f"{STATED} of all parameters, outer learning rate 0.7 with momentum 0.9; all at once against {FRAGMENTS}"
    f" fragments in turn with a delay of {DELAY} steps and alpha {ALPHA}; {TUNED}; bytes in the largest"
    " synchronization, from the compiled step.",
    required=f"at most {MARGIN} times the test loss, and at most {PEAK} times the bytes",
    measure=measure,
)
