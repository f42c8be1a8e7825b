"""Along which updates a transformer's loss is curved: SGD's, Adam's, and both with the largest coordinates clipped."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.tasks import bytes_lm
from optkit.comparison.statistics import student

RATE, BATCH, STEPS, MEASURED_EVERY, SEEDS = 3e-3, 4, 100, 25, 8
CURVATURE_WINDOWS, ITERATIONS = 4, 8
SMALL, LARGE = 0.1, 0.5
DIRECTIONS = {
    "SGD": optax.identity(),
    f"clipped SGD {SMALL:g}": optkit.clip_by_quantile(SMALL),
    f"clipped SGD {LARGE:g}": optkit.clip_by_quantile(LARGE),
    "Adam": optax.scale_by_adam(),
    f"Adam after clipping {SMALL:g}": optax.chain(optkit.clip_by_quantile(SMALL), optax.scale_by_adam()),
    f"Adam after clipping {LARGE:g}": optax.chain(optkit.clip_by_quantile(LARGE), optax.scale_by_adam()),
}
# Each of the first is less sharp than the second.
REQUIRED = (
    ("Adam", "SGD"),
    (f"clipped SGD {SMALL:g}", "SGD"),
    (f"Adam after clipping {SMALL:g}", "Adam"),
)


def measure() -> Finding:
    """Trains by Adam, and measures the curvature along what each rule makes of the same gradients."""
    task = bytes_lm.task()
    random = np.random.default_rng(0)
    shape = (SEEDS, STEPS // MEASURED_EVERY, MEASURED_EVERY, BATCH)
    batches = jnp.asarray(task.train[random.integers(0, len(task.train), shape)])
    windows = jnp.asarray(task.train[random.integers(0, len(task.train), CURVATURE_WINDOWS)])
    loss = functools.partial(task.loss, batch=windows)

    def train(params, batches):
        def step(carry, batch):
            params, states, *_ = carry
            grads = jax.grad(task.loss)(params, batch)
            made = [tx.update(grads, state, params) for tx, state in zip(DIRECTIONS.values(), states, strict=True)]
            updates = {name: update for name, (update, _) in zip(DIRECTIONS, made, strict=True)}
            new_params = optax.apply_updates(params, optax.tree.scale(-RATE, updates["Adam"]))
            return (new_params, [state for _, state in made], params, list(updates.values())), None

        def stretch(carry, batches):
            carry, _ = jax.lax.scan(step, carry, batches)
            *_, at, updates = carry
            updates = jax.tree.map(lambda *x: jnp.stack(x), *updates)
            return carry, jax.lax.map(lambda update: optkit.directional_sharpness(loss, at, update), updates)

        states = [tx.init(params) for tx in DIRECTIONS.values()]
        carry = params, states, params, [params] * len(DIRECTIONS)
        (params, *_), sharpness = jax.lax.scan(stretch, carry, batches)
        return sharpness, optkit.hessian_extremes(loss, params, iterations=ITERATIONS)

    starts = jax.vmap(task.init)(jax.random.split(jax.random.key(0), SEEDS))
    sharpness, extremes = jax.device_get(jax.jit(jax.vmap(train))(starts, batches))
    means = dict(zip(DIRECTIONS, np.mean(sharpness, axis=1).T, strict=True))
    holds, said = True, []
    for name, other in REQUIRED:
        # A mean that is not positive has no logarithm, and the claim fails.
        ratio = student(np.log(np.where((means[name] > 0) & (means[other] > 0), means[name] / means[other], np.nan)))
        holds &= ratio.high < 0
        low, mean, high = np.exp([ratio.low, ratio.mean, ratio.high])
        said.append(f"{name} {mean:.2g} [{low:.2g}, {high:.2g}] times as sharp as {other}")
    listed = ", ".join(f"{name} {mean.mean():.3g}" for name, mean in means.items())
    return Finding(
        f"{'; '.join(said)}; means: {listed}; largest eigenvalue at the end {extremes.largest.mean():.3g} (error at"
        f" most {extremes.largest_error.max():.1g})",
        bool(holds),
    )


CLAIM = Claim(
    method="clip_by_quantile",
    arxiv="2306.00204",
    statement=(
        "Adam's update is less sharp, u' H u / |u|^2, than SGD's, and clipping the largest coordinates makes both less"
        " sharp."
    ),
    experiment=(
        f"The transformer of `bytes-lm` over bytes of Python, {STEPS} steps of Adam at rate {RATE:g} on batches of"
        f" {BATCH} windows; in every {MEASURED_EVERY}th step the sharpness on"
        f" {CURVATURE_WINDOWS} other windows of what each rule makes of the same gradients, momentum included;"
        f" {SEEDS} seeds."
    ),
    required=(
        f"the geometric mean over seeds of the ratios with its 95% interval below 1: Adam to SGD, and clipping"
        f" {SMALL:.0%} of the coordinates to none, before SGD and before Adam; clipping {LARGE:.0%} reported"
    ),
    measure=measure,
)
