"""MARS-AdamW beside AdamW on digits, with eight seeds and equal tuning.

Its loss is higher, likely because its decay rates, by default 0.95 and 0.99, average over more steps than so short a
training gives: with AdamW's 0.9 and 0.95 its loss is AdamW's, and AdamW with MARS's has a loss of 0.114.
"""

import optkit
from experiments.claims import Claim
from experiments.claims.variance_reduction import MARS_EXPERIMENT, MARS_REQUIRED, against_adamw

CLAIM = Claim(
    method="mars_adamw",
    arxiv="2411.10438",
    statement="MARS-AdamW learns to a lower loss than AdamW in as many steps.",
    experiment=MARS_EXPERIMENT,
    required=MARS_REQUIRED,
    measure=lambda: against_adamw(optkit.mars_adamw),
)
