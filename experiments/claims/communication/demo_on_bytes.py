"""DeMo on a small language model beside AdamW on whole gradients."""

import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.communication import on_bytes
from optkit.comparison import statistics

WORKERS, SEEDS, REQUIRED = 4, 3, 1.02
DEMO_RATES, ADAMW_RATES = (3e-4, 1e-3, 3e-3), (2e-3, 6e-3, 2e-2)


def measure() -> Finding:
    """Trains with both."""

    def adamw(rate):
        mean = optkit.compressed_mean(optkit.compressors.identity(), axis_name="workers")
        return optax.chain(mean, optax.adamw(rate, weight_decay=0.0))

    def demo(rate):
        return optkit.demo(rate, axis_name="workers")

    ours = on_bytes(demo, DEMO_RATES, workers=WORKERS, seeds=SEEDS)
    theirs = on_bytes(adamw, ADAMW_RATES, workers=WORKERS, seeds=SEEDS)
    ratio = statistics.student(ours.test["loss"] / theirs.test["loss"])
    return Finding(
        f"DeMo {np.mean(ours.test['loss']):.4f} (rate {ours.setting:g}), AdamW {np.mean(theirs.test['loss']):.4f}"
        f" (rate {theirs.setting:g}): {ratio.mean:.3f} ({ratio.low:.3f} to {ratio.high:.3f}) times",
        ratio.mean <= REQUIRED,
    )


CLAIM = Claim(
    method="demo",
    arxiv="2411.19870",
    statement="Language models that are trained with DeMo match those trained with AdamW, at a fraction of the bytes.",
    experiment=(
        f"Test loss on `bytes-lm-small`, whose batches {WORKERS} workers share; DeMo with 32 of 4096 frequencies at the"
        f" best of the rates {', '.join(f'{rate:g}' for rate in DEMO_RATES)}, AdamW at the best of"
        f" {', '.join(f'{rate:g}' for rate in ADAMW_RATES)}, by validation loss; no weight decay, {SEEDS} seeds."
    ),
    required=f"a loss of at most {REQUIRED} times AdamW's",
    measure=measure,
)
