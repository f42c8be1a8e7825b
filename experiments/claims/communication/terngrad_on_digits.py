"""TernGrad, in two bits an entry and without feedback, comes near the accuracy of SGD."""

import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.communication import described, on_digits
from experiments.claims.decentralized import difference

POINTS_LOST = 2


def measure() -> Finding:
    """Trains with both."""

    def terngrad(rate):
        return optax.chain(optkit.terngrad(key=0, axis_name="workers"), optax.sgd(rate, momentum=0.9))

    def sgd(rate):
        mean = optkit.compressed_mean(optkit.compressors.identity(), axis_name="workers")
        return optax.chain(mean, optax.sgd(rate, momentum=0.9))

    ours, theirs = on_digits(terngrad), on_digits(sgd)
    found, shown = difference(ours, theirs)
    return Finding(
        f"{100 * np.mean(ours):.2f}% against {100 * np.mean(theirs):.2f}%, {shown}", found.low >= -POINTS_LOST / 100
    )


CLAIM = Claim(
    method="terngrad",
    arxiv="1705.07878",
    statement="TernGrad loses less than 2% of accuracy on average.",
    experiment=f"{described()}: test accuracy with ternary gradients, clipped to 2.5 standard deviations.",
    required=f"not more than {POINTS_LOST} points below SGD (paired 95% interval)",
    measure=measure,
)
