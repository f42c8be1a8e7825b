"""Deep Gradient Compression at a thousandth of the entries keeps the accuracy; without feedback it is lost."""

import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.communication import described, on_digits
from experiments.claims.decentralized import difference

DENSITY, POINTS_LOST, RATES = 0.001, 1, (0.05, 0.1, 0.2)


def measure() -> Finding:
    """Trains with compression, with and without feedback, and without compression."""

    def compressed(rate):
        return optkit.deep_gradient_compression(rate, 0.9, axis_name="workers", density=DENSITY)

    def forgetting(rate):
        mean = optkit.compressed_mean(optkit.compressors.top_k(DENSITY), axis_name="workers")
        return optax.chain(mean, optax.sgd(rate, momentum=0.9))

    def sgd(rate):
        mean = optkit.compressed_mean(optkit.compressors.identity(), axis_name="workers")
        return optax.chain(mean, optax.sgd(rate, momentum=0.9))

    ours, without, dense = (on_digits(build, RATES) for build in (compressed, forgetting, sgd))
    kept, shown = difference(ours, dense)
    lost, shown_without = difference(without, ours)
    return Finding(
        f"{100 * np.mean(ours):.2f}%, SGD {100 * np.mean(dense):.2f}%: {shown}; without feedback"
        f" {100 * np.mean(without):.2f}%: {shown_without}",
        kept.low >= -POINTS_LOST / 100 and lost.high <= -POINTS_LOST / 100,
    )


CLAIM = Claim(
    method="deep_gradient_compression",
    arxiv="1712.01887",
    statement="With 0.1% of the entries of gradients, Deep Gradient Compression keeps the accuracy of momentum SGD.",
    experiment=(
        f"{described(RATES)}: test accuracy with Deep Gradient Compression at {DENSITY:.1%} of the entries"
        " (matrices only, no warm-up), with top-k of the same density without feedback, and with whole gradients."
    ),
    required=(
        f"not more than {POINTS_LOST} point below whole gradients, and more than {POINTS_LOST} above top-k without"
        " feedback (paired 95% intervals)"
    ),
    measure=measure,
)
