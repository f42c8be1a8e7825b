"""The gradients that DADAO in rounds needs, against those of the simulator of asynchronous events."""

import jax
import numpy as np

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.decentralized.dadao_accelerated_rate import (
    RING,
    SEEDS,
    SIZE,
    TARGET,
    WORKERS,
    asynchronous_gradients,
)
from experiments.claims.decentralized.dadao_rounds_rate import WAITS, gradients_in_rounds
from optkit.comparison import statistics

TOPOLOGIES = {"ring": RING, "star": optkit.topology.star(WORKERS)}
CONDITIONS = (40, 160)
MOST = 1.3


def measure() -> Finding:
    """Counts the gradients on both topologies, at both condition numbers, for both waits."""
    words, holds = [], True
    with jax.enable_x64(True):
        for name, topology in TOPOLOGIES.items():
            for condition in CONDITIONS:
                simulated = asynchronous_gradients(condition, topology)
                ratios = []
                for wait in WAITS:
                    # Runs of one seed start at the same point.
                    in_rounds = gradients_in_rounds(condition, wait, topology)
                    ratio = statistics.student(np.log(in_rounds / simulated))
                    mean, low, high = np.exp([ratio.mean, ratio.low, ratio.high])
                    ratios.append(f"{wait} {mean:.2f} ({low:.2f} to {high:.2f})")
                    holds = holds and bool(high <= MOST)
                words.append(f"{name}, {condition}: {np.mean(simulated):,.0f} simulated, times {', '.join(ratios)}")
    return Finding("; ".join(words), holds)


CLAIM = Claim(
    method="dadao",
    arxiv="2208.00779",
    statement="In rounds, where all workers go in step, DADAO needs few more gradients than where none waits for"
    " another.",
    experiment=f"Linear regression with {SIZE} parameters on each of {WORKERS} workers on a ring and on a star,"
    f" condition numbers {' and '.join(map(str, CONDITIONS))}, optimal rates of exchanges, exact gradients, {SEEDS}"
    " seeds, exponential waits and waits of one: gradients of all workers until the mean squared distance to the"
    f" optimum is below {TARGET:g}, against the simulator of events from the same starts.",
    required=f"at most {MOST} times the simulator's gradients (upper end of the 95% interval of the geometric mean) in"
    " all cases",
    measure=measure,
)
