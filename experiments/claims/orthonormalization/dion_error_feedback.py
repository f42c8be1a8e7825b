"""Dion's error feedback makes up for a low rank."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.claims import Claim, Finding
from optkit.core.linalg.orthonormal import householder_qr
from optkit.orthonormalization import scale_by_dion

ROWS, COLUMNS = 64, 48
RANKS = (3, 6, 12, 48)
STEPS, SEEDS, MOMENTUM, NOISE = 1000, 8, 0.95, 0.1
RATES = (0.01, 0.02, 0.05, 0.1, 0.2)
LOW_RANKS, REQUIRED = (3, 6), 0.6
REQUIRED_AT_FULL_RANK = 0.01


def measure() -> Finding:
    """Runs all ranks with and without error feedback."""
    losses = {rank: _best_losses(rank) for rank in RANKS}
    ratios = {rank: with_feedback / without for rank, (with_feedback, without) in losses.items()}
    holds = all(ratios[rank] <= REQUIRED for rank in LOW_RANKS)
    holds &= abs(ratios[min(ROWS, COLUMNS)] - 1) <= REQUIRED_AT_FULL_RANK
    return Finding(
        measured=", ".join(f"rank {rank}: {a:.2g} against {b:.2g}" for rank, (a, b) in losses.items()),
        holds=bool(holds),
        draw=functools.partial(_draw, losses=losses),
    )


def _draw(axes, losses):
    for index, label in enumerate(("with error feedback", "without")):
        axes.plot(RANKS, [losses[rank][index] for rank in RANKS], marker="o", label=label)
    axes.set(xscale="log", yscale="log", xlabel="rank", ylabel="loss at the end")
    axes.set_xticks(RANKS, [str(rank) for rank in RANKS])
    axes.minorticks_off()
    axes.legend()


def _best_losses(rank):
    """Of all rates, the loss at the end, averaged over seeds: with error feedback and without."""
    problems = jax.tree.map(lambda *x: jnp.stack(x), *map(_problem, range(SEEDS)))
    loss = functools.partial(_loss, rank=rank)
    over_rates = jax.vmap(jax.vmap(jax.vmap(loss, (0, None, None)), (None, 0, None)), (None, None, 0))
    losses = jax.jit(over_rates)(problems, jnp.array(RATES), jnp.array([True, False]))
    return tuple(float(best) for best in jnp.min(jnp.mean(losses, axis=2), axis=1))


def _problem(seed):
    rng = np.random.default_rng(seed)

    def curvature(size):
        vectors = np.linalg.qr(rng.standard_normal((size, size)))[0]
        return vectors * np.logspace(0, -1, size) @ vectors.T

    optimum = rng.standard_normal((ROWS, COLUMNS)) / COLUMNS**0.5
    problem = {"left": curvature(ROWS), "right": curvature(COLUMNS), "optimum": optimum}
    return {**jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), problem), "key": jax.random.key(seed)}


def _loss(problem, rate, feedback, *, rank):
    numbers = optax.contrib.MuonDimensionNumbers(reduction_axis=-1, output_axis=-2)
    tx = scale_by_dion(rank=rank, momentum=MOMENTUM, orthonormalize=householder_qr, weight_dimension_numbers=numbers)

    def loss(params):
        return jnp.sum((problem["left"] @ (params - problem["optimum"]) @ problem["right"]) ** 2) / 2

    def step(carry, count):
        params, state = carry
        key = jax.random.fold_in(problem["key"], count)
        noise = NOISE * jax.random.normal(key, params.shape) / (ROWS * COLUMNS) ** 0.5
        gradient = jax.grad(loss)(params) + noise
        updates, new_state = tx.update(gradient, state)
        without = MOMENTUM * (optax.tree.get(state, "momentum") + gradient)
        momentum = jnp.where(feedback, optax.tree.get(new_state, "momentum"), without)
        new_state = optax.tree.set(new_state, momentum=momentum)
        return (params - rate * (1 - count / STEPS) * updates, new_state), None

    start = jnp.zeros((ROWS, COLUMNS))
    (params, _), _ = jax.lax.scan(step, (start, tx.init(start)), jnp.arange(STEPS))
    return loss(params)


CLAIM = Claim(
    method="dion",
    arxiv="2504.05295",
    statement="Error feedback makes up for what a low-rank update leaves out.",
    experiment=(
        f"{STEPS:,} steps on |A (W - W*) B|^2 / 2 with noisy gradients, W {ROWS} x {COLUMNS}, curvatures 1 to 0.1, the "
        f"best of {len(RATES)} rates decayed to zero, mean of {SEEDS} seeds; the same momentum without feedback."
    ),
    required=(
        f"loss at most {REQUIRED:g} times that without error feedback at ranks {LOW_RANKS[0]} and {LOW_RANKS[1]}, "
        f"equal to {REQUIRED_AT_FULL_RANK:.0%} at full rank"
    ),
    measure=measure,
)
