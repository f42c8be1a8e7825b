"""EFCP at a sparsity of 99% on a classification, where its paper counts accuracies."""

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.memory_efficient import ON_DIGITS, POINTS_LOST, compare_on_digits, tuned_on_digits

WINDOW, DAMPING, DENSITY = 20, 0.01, 0.01


def measure() -> Finding:
    """Trains on whole gradients and on sparse ones."""
    sparse = tuned_on_digits(lambda rate: optkit.sparse_m_fac(rate, WINDOW, DAMPING, DENSITY))
    whole = tuned_on_digits(lambda rate: optkit.m_fac(rate, WINDOW, DAMPING))
    found, shown = compare_on_digits(sparse, whole, ("sparse", "whole gradients"))
    return Finding(shown, found.low >= -POINTS_LOST)


CLAIM = Claim(
    method="sparse_m_fac",
    arxiv="2306.06098",
    statement="Error feedback compresses M-FAC's window to 99% sparsity without loss of accuracy.",
    experiment=f"{ON_DIGITS}; M-FAC with a window of {WINDOW} and damping {DAMPING}, on whole gradients and on"
    " 1% of their entries: test accuracy.",
    required="not more than 1 point below that of whole gradients (paired 95% interval)",
    measure=measure,
)
