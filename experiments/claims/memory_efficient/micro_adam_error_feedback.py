"""MicroAdam's error feedback keeps most of what the largest entries leave out, and four bits are enough for it."""

from typing import Any

import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.memory_efficient import NETWORK, best_loss

DENSITIES = (0.05, 0.01)


def without_feedback(rate: Any, density: float) -> optax.GradientTransformation:
    """MicroAdam that forgets its errors after each step."""
    micro_adam = optkit.scale_by_micro_adam(density=density)
    start = micro_adam.init

    def update_fn(updates, state, params=None):
        no_error = optax.tree.zeros_like(state.error)
        return micro_adam.update(updates, state._replace(error=no_error), params)

    return optax.chain(optax.GradientTransformation(start, update_fn), optax.scale_by_learning_rate(rate))


def losses(density: float) -> tuple[float, float, float]:
    """The final losses with four bits, with whole errors and without errors."""
    return (
        best_loss(lambda rate: optkit.micro_adam(rate, density=density))[0],
        best_loss(lambda rate: optkit.micro_adam(rate, density=density, bits="whole"))[0],
        best_loss(lambda rate: without_feedback(rate, density))[0],
    )


def measure() -> Finding:
    """Trains at both densities."""
    figures = {density: losses(density) for density in DENSITIES}
    return Finding(
        "; ".join(
            f"{density:.0%} of the entries: {quantized:.4f} with 4 bits, {whole:.4f} with whole errors,"
            f" {without:.4f} without"
            for density, (quantized, whole, without) in figures.items()
        ),
        all(quantized <= 0.8 * without and quantized <= 1.25 * whole for quantized, whole, without in figures.values()),
    )


CLAIM = Claim(
    method="micro_adam",
    arxiv="2405.15593",
    statement="Feeding back what the largest entries leave out keeps Adam's accuracy, also from 4 bits a parameter.",
    experiment=f"{NETWORK}; 5% and 1% of the entries, errors in 4 bits, whole, and forgotten.",
    required="with 4 bits at most 0.8 times the loss without errors and 1.25 times that with whole ones, for both",
    measure=measure,
)
