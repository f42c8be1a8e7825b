"""How claims train networks: with all settings and seeds in one program, alone or on workers."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.workers import split
from optkit.comparison import gradients, training
from optkit.comparison.task import Task, examples
from optkit.decentralized import consensus_distance
from optkit.method import Stacked

DIGITS, SEEDS = "digits-mlp", 8


class Scores(NamedTuple):
    """How trainings end: mean metrics by name, with axes over settings and seeds, or over seeds alone.

    Attributes:
        setting: the rows of settings, or the one that `at_best` took.
        validation: metrics of the examples by which settings are chosen.
        test: of those by which methods are compared.
        train: of the training examples; None on workers.
        consensus: the root mean square distance of the workers from their mean, if it was asked for.
    """

    setting: Any
    validation: dict[str, Any]
    test: dict[str, Any]
    train: Any = None
    consensus: Any = None

    def at_best(self, metric: str, *, of_train: bool = False) -> "Scores":
        """Takes the setting with the lowest mean loss or the highest mean accuracy.

        Args:
            metric: "loss" or "accuracy".
            of_train: whether that of the training examples decides, where a claim is about how well these are fitted,
                in place of that of the validation set.

        Returns:
            The scores by seed.
        """
        means = np.mean((self.train if of_train else self.validation)[metric], axis=1)
        best = int(np.argmax(np.nan_to_num(-means if metric == "loss" else means, nan=-np.inf)))
        return jax.tree.map(lambda x: np.asarray(x, float)[best], self)


def train(
    task: Task,
    build: Callable[..., optax.GradientTransformation],
    settings: Sequence[Any],
    *,
    batch_size: int,
    steps: int,
    schedule: optax.Schedule | None = None,
    stacked: Stacked | None = None,
    disturb: Callable[[Any, jax.Array], Any] | None = None,
) -> Scores:
    """Trains a network with all settings and seeds.

    Args:
        task: what to train.
        build: makes an optimizer from a schedule of the learning rate and what else a row of settings has.
        settings: one row for each way to train, a learning rate or a tuple that begins with it.
        batch_size: examples in a batch.
        steps: length of a training.
        schedule: the learning rate relative to its peak; by default that of comparisons, a warm-up and a cosine.
        stacked: what the leading axis of the gradients is over, as in `Method`.
        disturb: adds noise, drawn from a key, to the gradients; by default nothing is added.

    Returns:
        The scores at the end.
    """
    shape = training.schedule(steps) if schedule is None else schedule
    rows = [training.batch_order(examples(task.train), batch_size, steps, seed) for seed in range(SEEDS)]

    def run(setting, seed, rows):
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
        inputs = rows, jax.random.split(noise_key, steps)
        params = jax.lax.scan(step, (start, tx.init(start)), inputs)[0][0]
        return Scores(None, *(_means(task, params, part) for part in (task.validation, task.test, task.train)))

    return _with_all(run, settings, np.stack(rows))


def dealt(task: Task, *, workers: int, alpha: float, batch_size: int, steps: int, seeds: int = SEEDS) -> np.ndarray:
    """Deals the training examples to workers, and orders the batches of each.

    Args:
        task: whose examples they are.
        workers: their number.
        alpha: how evenly, see `split.deal`.
        batch_size: examples in one worker's batch.
        steps: length of a training.
        seeds: how many trainings there are with each setting.

    Returns:
        What `train_on_workers` takes as `rows`.
    """
    rows = []
    for seed in range(seeds):
        parts = split.deal(task, workers=workers, alpha=alpha, least=batch_size, seed=seed)
        rows.append(split.batches(parts, batch_size=batch_size, steps=steps, seed=seed))
    return np.stack(rows)


def train_on_workers(
    task: Task,
    build: Callable[..., optax.GradientTransformation],
    settings: Sequence[Any],
    rows: np.ndarray,
    *,
    report: Callable[[Any, Any], Any] | None = None,
    consensus: bool = False,
) -> Scores:
    """Trains a network on workers, with all settings and seeds.

    Args:
        task: what to train.
        build: makes a worker's optimizer, for the axis "workers", from a row of settings.
        settings: one row for each way to train, a number or a tuple.
        rows: the examples in all batches, `(seeds, workers, steps, batch size)`.
        report: finds the parameters to report in a state and a worker's parameters, for example
            `optkit.co2_eval_params`; by default these parameters. The workers' mean of them is scored.
        consensus: whether to measure how far apart the workers' parameters are.

    Returns:
        The scores at the end.
    """

    def run(setting, seed, rows):
        tx = optax.with_extra_args_support(build(*jnp.atleast_1d(setting)))

        def worker(rows):
            def step(carry, rows):
                params, state = carry
                batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], task.train)

                def grad_fn(params):
                    return jax.grad(task.loss)(params, batch)

                updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
                return (optax.apply_updates(params, updates), state), None

            start = task.init(jax.random.key(seed))
            params, state = jax.lax.scan(step, (start, tx.init(start)), rows)[0]
            reported = params if report is None else report(state, params)
            return jax.lax.pmean(reported, "workers"), consensus_distance(params, "workers") if consensus else None

        params, distance = jax.vmap(worker, axis_name="workers", out_axes=None)(rows)
        validation, test = (_means(task, params, part) for part in (task.validation, task.test))
        return Scores(None, validation, test, consensus=distance)

    return _with_all(run, settings, rows)


def _means(task, params, part):
    return jax.tree.map(jnp.mean, dict(task.metrics(params, part)))


def _with_all(run, settings, rows):
    """Runs a training with all settings and seeds, of which the latter have rows of their own, as one program."""
    over_seeds = jax.vmap(run, (None, 0, 0))
    over_settings = jax.jit(jax.vmap(over_seeds, (0, None, None)))
    found = over_settings(jnp.asarray(settings), jnp.arange(len(rows)), jnp.asarray(rows))
    return found._replace(setting=np.asarray(settings))
