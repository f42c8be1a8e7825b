"""MuLoCo, which is DiLoCo with Muon on each worker, against DiLoCo with AdamW."""

from typing import Any

import optax

import optkit
from experiments.claims import Claim
from experiments.claims.local_training import lower_loss
from experiments.claims.local_training.diloco_outer_momentum import (
    EVERY,
    RATES,
    SEEDS,
    SIZED,
    diloco,
    schedule,
    trained,
)

MUON_RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)


def muloco(rate: Any) -> optax.GradientTransformation:
    """Makes MuLoCo with its authors' outer step."""
    return optkit.muloco(schedule(rate), EVERY, axis_name="workers")


CLAIM = Claim(
    method="muloco",
    arxiv="2505.23725",
    statement="Muon on each worker gives a better model than AdamW, with the same communication.",
    experiment=f"{SIZED} with warm-up and cosine decay, a synchronization every {EVERY} steps; Muon with an outer"
    f" learning rate of 0.9 and momentum 0.8 at the rates {', '.join(f'{rate:g}' for rate in MUON_RATES)}, against"
    f" AdamW with 0.7 and 0.9 at the rates {', '.join(f'{rate:g}' for rate in RATES)}; each at its best rate by"
    f" validation loss, {SEEDS} seeds.",
    required="a lower test loss (paired 95% interval)",
    measure=lambda: lower_loss(trained(muloco, MUON_RATES), trained(diloco)),
)
