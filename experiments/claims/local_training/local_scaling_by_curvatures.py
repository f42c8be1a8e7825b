"""SAVIC with a diagonal of the Hessian, against local SGD that sends as many bytes."""

from experiments.claims import Claim
from experiments.claims.local_training.local_scaling_of_curvatures import MARGIN, compared, described

RATES = (0.03, 0.1, 0.3, 1.0)

CLAIM = Claim(
    method="local_scaling",
    arxiv="2406.00846",
    statement="Where curvatures differ, steps that all workers scale by the Hessian's diagonal are better than those of"
    " local SGD.",
    experiment=described("the Hessian", RATES),
    required=f"at most {MARGIN:g} times the loss",
    measure=lambda: compared("oasis", RATES),
)
