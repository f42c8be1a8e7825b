"""DiLoCo's outer step with Nesterov's momentum against the plain mean of the workers' parameters."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.local_training import lower_loss, on_digits
from experiments.claims.trainings import Scores

WORKERS, BATCH_SIZE, STEPS, WARM_UP, EVERY, SEEDS = 4, 16, 1024, 64, 32, 8
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
SIZES: dict[str, Any] = {"workers": WORKERS, "batch_size": BATCH_SIZE, "steps": STEPS, "seeds": SEEDS}
SIZED = (
    f"The digits perceptron, {WORKERS} workers with equal parts of the examples, batches of {BATCH_SIZE}, {STEPS} steps"
)
STATED = f"{SIZED} of AdamW with warm-up and cosine decay, a synchronization every {EVERY} steps"


def tuned(rates: Sequence[float]) -> str:
    """Says how learning rates are chosen."""
    return f"each at the best of the rates {', '.join(f'{rate:g}' for rate in rates)} by validation loss, {SEEDS} seeds"


TUNED = tuned(RATES)


def schedule(rate: Any) -> optax.Schedule:
    """Makes the schedule of the inner learning rate from its peak."""
    shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, WARM_UP, STEPS)
    return lambda count: rate * shape(count)


def diloco(rate: Any) -> optax.GradientTransformation:
    """Makes DiLoCo with the paper's outer step."""
    return optkit.diloco(schedule(rate), EVERY, 0.7, 0.9, axis_name="workers")


def averaging(rate: Any) -> optax.GradientTransformation:
    """Makes the same inner optimizer, with the plain mean."""
    inner = optax.adamw(schedule(rate), 0.9, 0.95, weight_decay=0.1)
    return optkit.local_updates(inner, None, every=EVERY, axis_name="workers")


@functools.cache
def trained(build: Callable[[Any], optax.GradientTransformation], rates: tuple[float, ...] = RATES) -> Scores:
    """Trains with all learning rates, once for all claims, and reports what the workers share."""
    return on_digits(build, rates, **SIZES, report=optkit.local_updates_eval_params)


def measure() -> Finding:
    """Trains with both."""
    return lower_loss(trained(diloco), trained(averaging))


CLAIM = Claim(
    method="diloco",
    arxiv="2311.08105",
    statement="An outer step with Nesterov's momentum gives a better model than the plain mean of the parameters.",
    experiment=f"{STATED}; an outer learning rate of 0.7 with momentum 0.9 against the mean; {TUNED}.",
    required="a lower test loss (paired 95% interval)",
    measure=measure,
)
