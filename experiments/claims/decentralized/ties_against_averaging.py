"""TIES against the mean and the sum of changes, for two networks fine-tuned from one base on different digits.

Of two models that disagree, the sign of the larger change is elected, and nothing of the other is kept: what is a noise
among many models is half of what two of them learned.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments import tasks
from experiments.claims import Claim, Finding
from experiments.claims.decentralized import difference
from experiments.claims.trainings import DIGITS, SEEDS

BASE_STEPS, STEPS, BATCH_SIZE, RATE = 100, 200, 32, 1e-3
DENSITY, OF_SUM = 0.2, 0.4


def accuracies() -> dict[str, np.ndarray]:
    """Gives the test accuracy on all digits of each merged model and of the base, for each seed."""
    task = tasks.load(DIGITS)
    small = np.flatnonzero(task.train["label"].argmax(axis=1) < 5)
    large = np.setdiff1d(np.arange(len(task.train["label"])), small)
    tx = optax.adam(RATE)

    def train(start, rows, steps, key):
        def step(carry, key):
            params, state = carry
            drawn = jnp.asarray(rows)[jax.random.choice(key, len(rows), (BATCH_SIZE,))]
            gradient = jax.grad(task.loss)(params, jax.tree.map(lambda leaf: jnp.asarray(leaf)[drawn], task.train))
            updates, state = tx.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (start, tx.init(start)), jax.random.split(key, steps))[0][0]

    def run(key):
        init_key, base_key, *tune_keys = jax.random.split(key, 4)
        base = train(task.init(init_key), np.arange(len(task.train["label"])), BASE_STEPS, base_key)
        tuned = [train(base, rows, STEPS, key) for rows, key in zip((small, large), tune_keys, strict=True)]
        models = jax.tree.map(lambda *x: jnp.stack(x), *tuned)
        merged = {
            "base": base,
            "TIES": optkit.ties_merge(base, models, DENSITY),
            "mean": jax.tree.map(lambda x: jnp.mean(x, axis=0), models),
            "sum": jax.tree.map(lambda b, x: b + OF_SUM * jnp.sum(x - b, axis=0), base, models),
        }
        return {name: jnp.mean(task.metrics(x, task.test)["accuracy"]) for name, x in merged.items()}

    found = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), SEEDS))
    return {name: np.asarray(x) for name, x in found.items()}


def measure() -> Finding:
    """Compares the merged models."""
    found = accuracies()
    of_mean, mean_text = difference(found["TIES"], found["mean"])
    of_sum, sum_text = difference(found["TIES"], found["sum"])
    shown = ", ".join(f"{name} {np.mean(values):.1%}" for name, values in found.items())
    return Finding(
        f"accuracy {shown}: {mean_text} against the mean, {sum_text} against the sum",
        min(of_mean.low, of_sum.low) > 0,
    )


CLAIM = Claim(
    method="ties_merge",
    arxiv="2306.01708",
    statement="Trimming changes, electing signs and averaging those that agree merges fine-tuned models better than the"
    " mean of the models or a scaled sum of their changes (task arithmetic).",
    experiment=f"A digits perceptron after {BASE_STEPS} steps of Adam on all digits, fine-tuned for {STEPS} steps on 0"
    f" to 4 and on 5 to 9; TIES with density {DENSITY} and scale 1, the mean, and {OF_SUM} times the sum, all without"
    f" validation as in the paper, {SEEDS} seeds: test accuracy on all ten digits.",
    required="a higher accuracy than both (paired 95% intervals)",
    measure=measure,
)
