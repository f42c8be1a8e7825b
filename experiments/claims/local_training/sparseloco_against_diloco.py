"""SparseLoCo, which sends a few entries of 2 bits, against DiLoCo, which sends all entries whole."""

from typing import Any

import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.local_training import figures, largest_synchronizations, ratio
from experiments.claims.local_training.diloco_outer_momentum import RATES, SIZED, WORKERS, schedule, trained, tuned

EVERY, MARGIN, SHARE = 16, 1.1, 0.1
WIDER_RATES = (*RATES, 0.1)


def sparse(rate: Any) -> optax.GradientTransformation:
    """Makes SparseLoCo with its default compressor."""
    return optkit.sparseloco(schedule(rate), EVERY, axis_name="workers")


def dense(rate: Any) -> optax.GradientTransformation:
    """Makes DiLoCo that synchronizes as often."""
    return optkit.diloco(schedule(rate), EVERY, 0.7, 0.9, axis_name="workers")


def measure() -> Finding:
    """Trains with both, and counts bytes."""
    few, whole = largest_synchronizations(sparse, dense, workers=WORKERS)
    ours, theirs = trained(sparse, WIDER_RATES), trained(dense, WIDER_RATES)
    found, shown = ratio(ours, theirs)
    return Finding(
        f"test loss {figures(ours)} against {figures(theirs)}, {shown}; test accuracy"
        f" {np.mean(ours.test['accuracy']):.2%} against {np.mean(theirs.test['accuracy']):.2%}; {few:,} bytes against"
        f" {whole:,}, {few / whole:.3f} of them",
        bool(np.exp(found.mean) <= MARGIN and few <= SHARE * whole),
    )


CLAIM = Claim(
    method="sparseloco",
    arxiv="2508.15706",
    statement="Outer gradients of 1 to 3 percent of the entries, with 2 bits for each, lose little against DiLoCo.",
    experiment=f"{SIZED} of AdamW with warm-up and cosine decay, a synchronization every {EVERY} steps; the 32 largest"
    " entries of each chunk of 64 by 64 with 2 bits (2.2% of all entries) and error feedback, against whole outer"
    f" gradients with an outer learning rate of 0.7 and momentum 0.9; {tuned(WIDER_RATES)}; bytes that a worker"
    " sends in a synchronization, from the compiled step.",
    required=f"at most {MARGIN:g} times the test loss, and at most {SHARE:g} times the bytes",
    measure=measure,
)
