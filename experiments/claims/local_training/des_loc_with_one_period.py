"""DES-LOC whose two moments have one period, against local Adam that averages all alike.

Periods that differ, as the paper recommends, make huge steps where a worker has not seen the inputs of the others: an
averaged momentum is then divided by a second moment of zero.
"""

from experiments.claims import Claim
from experiments.claims.local_training.des_loc_against_local_adam import EVERY, MARGIN, STATED, compared

PERIOD = 4 * EVERY


CLAIM = Claim(
    method="des_loc",
    arxiv="2505.22549",
    statement="With one period for both moments, half the communication of local Adam is enough for about the same"
    " loss.",
    experiment=f"{STATED}; both moments every {PERIOD} steps.",
    required=f"at most {MARGIN:g} times the test loss",
    measure=lambda: compared(PERIOD, PERIOD),
)
