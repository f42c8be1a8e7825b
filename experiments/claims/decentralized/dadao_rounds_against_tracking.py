"""The gradients that DADAO in rounds needs, against those of gradient tracking."""

import jax
import numpy as np

from experiments.claims import Claim, Finding
from experiments.claims.decentralized.dadao_accelerated_rate import (
    RATES,
    SEEDS,
    SIZE,
    STEPS_OF_CONDITION,
    TARGET,
    WORKERS,
    tracked_gradients,
)
from experiments.claims.decentralized.dadao_rounds_rate import WAITS, gradients_in_rounds

CONDITION, MOST = 160, 0.2


def measure() -> Finding:
    """Counts the gradients of both methods."""
    with jax.enable_x64(True):
        tracked = float(np.min(tracked_gradients(CONDITION)))
        worst = {wait: float(np.max(gradients_in_rounds(CONDITION, wait))) for wait in WAITS}
    words = ", ".join(f"{count:,.0f} with waits {wait}" for wait, count in worst.items())
    return Finding(
        f"worst of {SEEDS} seeds: {words}; gradient tracking {tracked:,.0f}",
        bool(np.isfinite(tracked) and max(worst.values()) <= MOST * tracked),
    )


CLAIM = Claim(
    method="dadao",
    arxiv="2208.00779",
    statement="On an ill-conditioned problem DADAO in rounds needs far fewer gradients than gradient tracking, which is"
    " not accelerated.",
    experiment=f"Linear regression with {SIZE} parameters and condition number {CONDITION} on each of {WORKERS} workers"
    f" on a ring, whose mean has this condition number too, optimal rates of exchanges, exact gradients, {SEEDS} seeds,"
    " exponential waits and waits of one: gradients of all workers until the mean squared distance to the optimum is"
    f" below {TARGET:g}; gradient tracking at the best of {len(RATES)} rates, for up to"
    f" {STEPS_OF_CONDITION * CONDITION:,} steps.",
    required=f"at most {MOST} times the gradients of gradient tracking, at the worst seed of both waits",
    measure=measure,
)
