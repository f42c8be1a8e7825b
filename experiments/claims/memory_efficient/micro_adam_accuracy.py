"""MicroAdam at its paper's density against Adam on a classification."""

import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.memory_efficient import ON_DIGITS, POINTS_LOST, compare_on_digits, tuned_on_digits

DENSITY = 0.01


def measure() -> Finding:
    """Trains with both."""
    micro_adam = tuned_on_digits(lambda rate: optkit.micro_adam(rate, density=DENSITY))
    adam = tuned_on_digits(optax.adam)
    found, shown = compare_on_digits(micro_adam, adam, ("MicroAdam", "Adam"))
    return Finding(shown, found.low >= -POINTS_LOST)


CLAIM = Claim(
    method="micro_adam",
    arxiv="2405.15593",
    statement="MicroAdam on 1% of the entries reaches an accuracy that is competitive with Adam's.",
    experiment=f"{ON_DIGITS}; a window of 10 gradients, errors in 4 bits, no weight decay: test accuracy.",
    required="not more than 1 point below Adam's (paired 95% interval)",
    measure=measure,
)
