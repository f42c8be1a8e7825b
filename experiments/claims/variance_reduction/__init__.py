"""Claims about variance reduction, and how networks are trained on digits for some of them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import tasks
from experiments.claims import Finding
from optkit.comparison import gradients, statistics, training
from optkit.comparison.task import Task, examples
from optkit.method import Stacked

DIGITS, SEEDS = "digits-mlp", 8
# How MARS and AdamW are tuned alike; AdamW's decay rates are those of the baseline in MARS's paper.
MARS_RATES, MARS_BATCH_SIZE, MARS_STEPS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1), 16, 300
MARS_EXPERIMENT = (
    f"The digits perceptron, {MARS_STEPS} batches of {MARS_BATCH_SIZE}, approximate and clipped as by default, against"
    f" AdamW with b2 = 0.95, both without weight decay, {SEEDS} seeds, each at the best of {len(MARS_RATES)} rates from"
    f" {MARS_RATES[0]:g} to {MARS_RATES[-1]:g} (warm-up and cosine) on the validation set; no language model, which"
    " would take hours with so many seeds."
)
MARS_REQUIRED = "a lower test loss (paired 95% interval)"


class Scores(NamedTuple):
    """The mean metrics at the end, with axes over settings and seeds, or over seeds alone.

    Attributes:
        train: of the training examples, by name.
        validation: of those by which settings are chosen.
        test: of those by which methods are compared.
    """

    train: dict[str, Any]
    validation: dict[str, Any]
    test: dict[str, Any]

    def at_best(self, metric: str) -> "Scores":
        """Takes the settings with the lowest mean loss or highest mean accuracy on the validation set."""
        means = np.mean(self.validation[metric], axis=1)
        best = int(np.argmax(np.nan_to_num(-means if metric == "loss" else means, nan=-np.inf)))
        return jax.tree.map(lambda x: np.asarray(x)[best], self)


def train(
    task: Task,
    build: Callable[..., optax.GradientTransformation],
    settings: Sequence[Any],
    *,
    batch_size: int,
    steps: int,
    stacked: Stacked | None = None,
    disturb: Callable[[Any, jax.Array], Any] | None = None,
) -> Scores:
    """Trains a network with all settings and seeds in one program.

    Args:
        task: what to train.
        build: makes an optimizer from a schedule of the learning rate and what else a row of settings has.
        settings: one row for each way to train, a learning rate or a tuple that begins with it.
        batch_size: examples in a batch.
        steps: length of a training.
        stacked: what the leading axis of the gradients is over, as in `Method`.
        disturb: adds noise, drawn from a key, to the gradients; by default nothing is added.

    Returns:
        The scores at the end, with axes over settings and seeds.
    """
    shape = training.schedule(steps)
    orders = [training.batch_order(examples(task.train), batch_size, steps, seed) for seed in range(SEEDS)]

    def run(setting, seed, order):
        rate, *others = jnp.atleast_1d(setting)
        tx = optax.with_extra_args_support(build(lambda count: rate * shape(count), *others))

        def step(carry, inputs):
            params, state = carry
            rows, key = inputs
            batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], task.train)
            _, grads, extra, _ = gradients.of_batch(task, stacked, params, None, batch, 1)
            updates, state = tx.update(disturb(grads, key) if disturb else grads, state, params, **extra)
            return (optax.apply_updates(params, updates), state), None

        init_key, noise_key = jax.random.split(jax.random.key(seed))
        start = task.init(init_key)
        inputs = order, jax.random.split(noise_key, steps)
        params = jax.lax.scan(step, (start, tx.init(start)), inputs)[0][0]
        metrics = (task.metrics(params, split) for split in (task.train, task.validation, task.test))
        return Scores(*(jax.tree.map(jnp.mean, dict(of_split)) for of_split in metrics))

    over_seeds = jax.vmap(run, (None, 0, 0))
    over_settings = jax.jit(jax.vmap(over_seeds, (0, None, None)))
    return over_settings(jnp.asarray(settings), jnp.arange(SEEDS), jnp.asarray(np.stack(orders)))


def loss_difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[statistics.Estimate, str]:
    """Estimates the paired difference of losses, and writes it."""
    found = statistics.student(np.asarray(ours, float) - np.asarray(theirs, float))
    return found, f"{found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f})"


def against_adamw(build: Callable[..., optax.GradientTransformation]) -> Finding:
    """Compares a form of MARS with AdamW.

    Args:
        build: makes it from a learning rate.

    Returns:
        The test losses; they hold if the form's is lower.
    """
    task = tasks.load(DIGITS)

    def losses(build):
        scores = train(task, build, MARS_RATES, batch_size=MARS_BATCH_SIZE, steps=MARS_STEPS)
        return scores.at_best("loss").test["loss"]

    ours, theirs = losses(build), losses(lambda rate: optax.adamw(rate, b2=0.95, weight_decay=0.0))
    found, text = loss_difference(ours, theirs)
    return Finding(f"test loss {np.mean(ours):.4f} against {np.mean(theirs):.4f}: {text}", found.high < 0)
