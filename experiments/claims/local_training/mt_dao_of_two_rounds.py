"""MT-DAO in a short run, with a momentum that is slow beside the time between two averages, but not beside the run.

The momentum of 0.999 has a half-life of 693 steps, a third of the run of `mt_dao_closes_the_gap`, where it fails. One
of 0.99 has a half-life of 69, two rounds.
"""

from experiments.claims import Claim
from experiments.claims.local_training.mt_dao_closes_the_gap import REQUIRED, compared, described

B1 = 0.99

CLAIM = Claim(
    method="mt_dao",
    arxiv="2510.05361",
    statement="MT-DAO with a momentum whose half-life is about two rounds closes the gap that local Adam has against"
    " synchronous Adam.",
    experiment=described(B1),
    required=REQUIRED,
    measure=lambda: compared(B1),
)
