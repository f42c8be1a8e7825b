"""MARS-Lion beside AdamW on digits, with eight seeds and equal tuning.

Its loss is higher, likely because its decay rate, by default 0.95, averages over more steps than so short a training
gives, as those of MARS-AdamW do.
"""

import optkit
from experiments.claims import Claim
from experiments.claims.variance_reduction import MARS_EXPERIMENT, MARS_REQUIRED, against_adamw

CLAIM = Claim(
    method="mars_lion",
    arxiv="2411.10438",
    statement="MARS-Lion learns to a lower loss than AdamW in as many steps.",
    experiment=MARS_EXPERIMENT,
    required=MARS_REQUIRED,
    measure=lambda: against_adamw(optkit.mars_lion),
)
