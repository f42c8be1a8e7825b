"""PowerSGD of rank 2 reaches the accuracy of SGD that averages whole gradients."""

import jax
import numpy as np
import optax

import optkit
from experiments import tasks
from experiments.claims import Claim, Finding
from experiments.claims.communication import described, on_digits
from experiments.claims.decentralized import difference
from experiments.claims.trainings import DIGITS

RANK, POINTS_LOST = 2, 1


def compression() -> float:
    """Returns how many times fewer numbers a worker sends than it has parameters."""
    shapes = [x.shape for x in jax.tree.leaves(jax.eval_shape(tasks.load(DIGITS).init, jax.random.key(0)))]
    whole = sum(int(np.prod(shape)) for shape in shapes)
    sent = sum(RANK * sum(shape) if len(shape) == 2 else int(np.prod(shape)) for shape in shapes)
    return whole / sent


def measure() -> Finding:
    """Trains with both."""

    def power_sgd(rate):
        mean = optkit.power_sgd(RANK, axis_name="workers", min_compression_rate=1.0)
        return optax.chain(mean, optax.sgd(rate, momentum=0.9))

    def sgd(rate):
        mean = optkit.compressed_mean(optkit.compressors.identity(), axis_name="workers")
        return optax.chain(mean, optax.sgd(rate, momentum=0.9))

    ours, theirs = on_digits(power_sgd), on_digits(sgd)
    found, shown = difference(ours, theirs)
    return Finding(
        f"{100 * np.mean(ours):.2f}% against {100 * np.mean(theirs):.2f}%, {shown}; 1/{compression():.1f}"
        " of the numbers sent",
        found.low >= -POINTS_LOST / 100,
    )


CLAIM = Claim(
    method="power_sgd",
    arxiv="1905.13727",
    statement="PowerSGD of rank 2 reaches the test accuracy of SGD.",
    experiment=f"{described()}: test accuracy, matrices sent by factors of rank {RANK}.",
    required=f"not more than {POINTS_LOST} point below SGD (paired 95% interval)",
    measure=measure,
)
