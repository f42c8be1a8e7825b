"""MT-DAO against local Adam and synchronous Adam, on digits in batches of two, whose gradients are noisy."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.local_training import figures, on_digits
from experiments.claims.trainings import Scores
from optkit.comparison import statistics

WORKERS, BATCH_SIZE, STEPS, EVERY, SEEDS = 4, 2, 2048, 32, 5
RATES, WARM_UP, CLIP = (1e-3, 3e-3, 1e-2, 3e-2), 128, 1.0
B1, OMEGA, ADAM = 0.999, 0.98, (0.9, 1.0)

Momentum = tuple[float, float]


def synchronous(rate: Any, momentum: Momentum) -> optax.GradientTransformation:
    """Makes the optimizer of `local` on the mean of all gradients."""
    mean = optax.stateless(lambda updates, _: jax.lax.pmean(updates, "workers"))
    return optax.chain(mean, optax.clip_by_global_norm(CLIP), optkit.mt_dao(rate, *momentum, axis_name=None))


def local(rate: Any, momentum: Momentum) -> optax.GradientTransformation:
    """Makes MT-DAO, which with a weight of 1 on a momentum of 0.9 is local Adam whose moments are averaged too."""
    tx = optkit.mt_dao(rate, *momentum, axis_name="workers", every=EVERY)
    return optax.chain(optax.clip_by_global_norm(CLIP), tx)


@functools.cache
def losses_of(build: Callable[[Any, Momentum], optax.GradientTransformation], momentum: Momentum) -> Scores:
    """Trains with all learning rates, once for all claims.

    Args:
        build: makes a worker's optimizer from a schedule and a momentum.
        momentum: its decay rate, and its weight in the step.

    Returns:
        What came out.
    """
    shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, WARM_UP, STEPS)

    def scheduled(rate):
        return build(lambda count: rate * shape(count), momentum)

    return on_digits(scheduled, RATES, workers=WORKERS, batch_size=BATCH_SIZE, steps=STEPS, seeds=SEEDS)


def compared(b1: float) -> Finding:
    """Trains all three, MT-DAO with a momentum."""
    ours, theirs, central = losses_of(local, (b1, OMEGA)), losses_of(local, ADAM), losses_of(synchronous, ADAM)
    ours_loss, theirs_loss, central_loss = (scores.test["loss"] for scores in (ours, theirs, central))
    gap = statistics.student(theirs_loss - central_loss)
    beyond = statistics.student(ours_loss - (theirs_loss + central_loss) / 2)
    return Finding(
        f"test loss of MT-DAO {figures(ours)}, local Adam {figures(theirs)}, synchronous Adam {figures(central)}:"
        f" local Adam's gap {gap.mean:+.4f} ({gap.low:+.4f} to {gap.high:+.4f}), MT-DAO from the midpoint"
        f" {beyond.mean:+.4f} ({beyond.low:+.4f} to {beyond.high:+.4f})",
        gap.low > 0 and beyond.high < 0,
    )


def described(b1: float) -> str:
    """Says how `compared` trains."""
    return (
        f"The digits perceptron, {WORKERS} workers with equal parts of the examples, batches of {BATCH_SIZE}, {STEPS}"
        f" steps with warm-up and cosine decay, gradients clipped to norm {CLIP:g}, parameters and moments averaged"
        f" every {EVERY} steps; momentum {b1:g} with weight {OMEGA:g} against Adam with 0.9; each at the best of the"
        f" rates {', '.join(f'{rate:g}' for rate in RATES)} by validation loss, {SEEDS} seeds."
    )


REQUIRED = (
    "a test loss of local Adam above that of synchronous Adam, and one of MT-DAO below the midpoint of both (paired 95%"
    " intervals)"
)
CLAIM = Claim(
    method="mt_dao",
    arxiv="2510.05361",
    statement="MT-DAO closes the gap that local Adam has against synchronous Adam.",
    experiment=described(B1),
    required=REQUIRED,
    measure=lambda: compared(B1),
)
