"""MicroAdam at its paper's density against Adam: how far the loss comes.

It fails here for the reason that EFCP does: of 1002 parameters about eleven move a step by a new gradient, and an error
waits a hundred steps for its turn, a sixth of the training.
"""

import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.memory_efficient import network, ratio, tuned

DENSITY, SEEDS, REQUIRED = 0.01, 8, 1.1


def measure() -> Finding:
    """Trains with both."""
    micro_adam = tuned(lambda rate: optkit.micro_adam(rate, density=DENSITY), seeds=SEEDS)
    adam = tuned(optax.adam, seeds=SEEDS)
    found, shown = ratio(micro_adam.losses, adam.losses)
    return Finding(
        f"MicroAdam {micro_adam.losses.mean():.4f} (rate {micro_adam.rate:g}), Adam {adam.losses.mean():.4f} (rate"
        f" {adam.rate:g}): {shown}",
        found.mean <= REQUIRED,
    )


CLAIM = Claim(
    method="micro_adam",
    arxiv="2405.15593",
    statement="MicroAdam on 1% of the entries converges in practice as Adam does.",
    experiment=f"{network(SEEDS)}; a window of 10 gradients, errors in 4 bits, no weight decay.",
    required=f"a loss of at most {REQUIRED} times Adam's",
    measure=measure,
)
