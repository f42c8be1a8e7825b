"""Random scaling does not cost momentum its speed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding

STEPS, SEEDS, BATCH = 1500, 64, 6
ROWS, COLUMNS, RANK, WIDTH = 12, 10, 3, 4


def measure() -> Finding:
    """Runs the experiment."""
    keys = jax.random.split(jax.random.key(0), SEEDS)

    @jax.vmap
    def with_and_without(key):
        scaled = optkit.randomly_scaled(_momentum(), key=jax.random.fold_in(key, 1))
        return train(scaled, key), train(_momentum(), key)

    scaled, plain = map(np.asarray, jax.jit(with_and_without)(keys))
    ratio = scaled.mean() / plain.mean()
    few = scaled[:8].mean() / plain[:8].mean()
    return Finding(
        f"mean final loss {scaled.mean():.2g} with scaling, {plain.mean():.2g} without: ratio {ratio:.2f}"
        f" (of the first 8 seeds alone: {few:.2f})",
        bool(0.5 <= ratio <= 2.0),
    )


def train(tx: optax.GradientTransformation, key: jax.Array) -> jax.Array:
    """Trains both factors and returns half the mean squared error of the matrix's entries."""
    left_key, right_key, init_key, batch_key = jax.random.split(key, 4)
    left, right = jax.random.normal(left_key, (ROWS, RANK)), jax.random.normal(right_key, (COLUMNS, RANK))
    target = left @ right.T / jnp.sqrt(RANK)

    def loss(params, rows):  # the mean of the rows' losses
        return jnp.sum((params["left"][rows] @ params["right"].T - target[rows]) ** 2) / (2 * len(rows))

    def step(carry, rows):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params, rows), state, params)
        return (optax.apply_updates(params, updates), state), None

    start = jax.random.normal(init_key, (ROWS + COLUMNS, WIDTH)) / jnp.sqrt(WIDTH)
    params = {"left": start[:ROWS], "right": start[ROWS:]}
    carry = params, tx.init(params)
    batches = jax.random.uniform(batch_key, (STEPS, ROWS)).argsort(axis=1)[:, :BATCH]
    (params, _), _ = jax.lax.scan(step, carry, batches)
    return loss(params, jnp.arange(ROWS)) / COLUMNS


def _momentum() -> optax.GradientTransformation:
    return optax.sgd(optax.linear_schedule(0.01, 0.0, STEPS), momentum=0.9)


CLAIM = Claim(
    method="randomly_scaled",
    arxiv="2405.09742",
    statement="Momentum with randomly scaled updates trains as well as without.",
    experiment=(
        "Factors of width 4 of a 12 x 10 matrix of rank 3, batches of 6 rows; heavy ball 0.9, learning rate 0.01"
        " decayed linearly over 1500 steps; 64 seeds, since losses of single seeds differ by six orders of magnitude"
        " and the mean of 8 is one seed's."
    ),
    required="the ratio of the mean final losses within [0.5, 2]",
    measure=measure,
)
