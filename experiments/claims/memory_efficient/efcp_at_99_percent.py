"""EFCP at a sparsity of 99%, as its abstract has it.

It fails here: of 1002 parameters ten are kept, and an error waits a hundred steps for its turn, a sixth of the
training; the paper trains millions of parameters for tens of thousands of steps.
"""

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.memory_efficient import network, ratio, tuned

WINDOW, DAMPING, DENSITY, SEEDS = 20, 0.01, 0.01, 8


def measure() -> Finding:
    """Trains on whole gradients and on sparse ones."""
    whole = tuned(lambda rate: optkit.m_fac(rate, WINDOW, DAMPING), seeds=SEEDS)
    sparse = tuned(lambda rate: optkit.sparse_m_fac(rate, WINDOW, DAMPING, DENSITY), seeds=SEEDS)
    found, shown = ratio(sparse.losses, whole.losses)
    return Finding(
        f"whole gradients {whole.losses.mean():.4f} (rate {whole.rate:g}), sparse {sparse.losses.mean():.4f} (rate"
        f" {sparse.rate:g}): {shown}",
        found.low <= 1,
    )


CLAIM = Claim(
    method="sparse_m_fac",
    arxiv="2306.06098",
    statement="Error feedback compresses M-FAC's window to 99% sparsity without loss of convergence.",
    experiment=f"{network(SEEDS)}; M-FAC with a window of {WINDOW} and damping {DAMPING}, on whole gradients and on 1%"
    " of their entries.",
    required="a loss that is not above that of whole gradients (paired 95% interval of the ratio reaches 1)",
    measure=measure,
)
