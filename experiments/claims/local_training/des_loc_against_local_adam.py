"""DES-LOC, which averages Adam's moments less often than parameters, against local Adam that averages all alike."""

import functools

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.local_training import loss_at_most, on_digits
from experiments.claims.local_training.diloco_outer_momentum import RATES, SIZED, SIZES, schedule, tuned
from experiments.claims.trainings import Scores

EVERY, MARGIN = 16, 1.05
WIDER_RATES = (*RATES, 0.1)
STATED = (
    f"{SIZED} of Adam with warm-up and cosine decay, parameters averaged every {EVERY} steps; moments averaged less"
    f" often against moments averaged every {EVERY} steps, too; {tuned(WIDER_RATES)}"
)


@functools.cache
def trained(momentum_every: int, second_moment_every: int) -> Scores:
    """Trains with averages of the moments at some periods."""

    def build(rate):
        return optkit.des_loc(
            schedule(rate),
            axis_name="workers",
            every=EVERY,
            momentum_every=momentum_every,
            second_moment_every=second_moment_every,
        )

    return on_digits(build, WIDER_RATES, **SIZES)


def compared(momentum_every: int, second_moment_every: int) -> Finding:
    """Trains with averages of the moments at these periods, and with averages of all in the same steps."""
    return loss_at_most(MARGIN, trained(momentum_every, second_moment_every), trained(EVERY, EVERY))


CLAIM = Claim(
    method="des_loc",
    arxiv="2505.22549",
    statement="With moments that are averaged less often than parameters, half the communication of local Adam is"
    " enough for about the same loss.",
    experiment=f"{STATED}; the momentum every {3 * EVERY} steps and the second moment every {6 * EVERY}.",
    required=f"at most {MARGIN:g} times the test loss",
    measure=lambda: compared(3 * EVERY, 6 * EVERY),
)
