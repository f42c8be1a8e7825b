"""`python -m experiments bench sweep`: a whole grid of trainings beside a plain loop that trains one of them."""

import time

import jax
import numpy as np
import optax
from rich.console import Console

from experiments import tasks
from optkit.comparison.baselines import BASELINES
from optkit.comparison.search import grid
from optkit.comparison.training import Sweep, Trainings, batch_order, schedule

STEPS = 1000
ROUNDS = 5


def run(console: Console) -> float:
    """Measures what a whole grid of trainings costs beside a plain loop that trains one of them.

    Both train AdamW on `digits-mlp`: the grid 6 learning rates with 3 seeds each, the plain loop one of them by one
    jitted step that it calls with one batch after the other. Compilation is left out on both sides, which take turns.

    Args:
        console: where to print.

    Returns:
        The ratio: the median of several turns.
    """
    task = tasks.load("digits-mlp")
    method = BASELINES["adamw"]
    rates = {"learning_rate": np.repeat(np.asarray(grid(method.grid, 6), np.float32), 3)}
    trainings = Trainings(Sweep(task, seeds=(0, 1, 2), points=6, steps=STEPS), method)
    (replicas,) = trainings.parts()

    def whole_grid():
        return trainings.advance(trainings.start(rates, replicas), rates, replicas, 0, STEPS)[2]

    curve = schedule(STEPS)
    transformation = optax.adamw(lambda count: method.grid * curve(count), weight_decay=0.0)
    order = batch_order(len(task.train["label"]), task.batch_size, STEPS, seed=0)

    @jax.jit
    def step(params, state, batch):
        loss, grads = jax.value_and_grad(task.loss)(params, batch)
        updates, state = transformation.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    def plain_loop():
        params = task.init(jax.random.key(0))
        state = transformation.init(params)
        begin = time.perf_counter()
        for rows in order:
            batch = {"image": task.train["image"][rows], "label": task.train["label"][rows]}
            params, state, _ = step(params, state, batch)
        jax.block_until_ready(params)
        return time.perf_counter() - begin

    whole_grid()
    plain_loop()
    turns = np.array([(whole_grid(), plain_loop()) for _ in range(ROUNDS)])
    ratio = float(np.median(turns[:, 0] / turns[:, 1]))
    grid_time, plain_time = np.median(turns, axis=0) / STEPS * 1e6
    console.print(f"18 trainings at once: {grid_time:.0f} us a step; a plain loop of one: {plain_time:.0f} us a step")
    console.print(f"ratio {ratio:.2f}")
    return ratio
