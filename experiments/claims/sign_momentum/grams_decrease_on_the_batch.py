"""Grams's step decreases the loss of its batch faster than Adam's and a cautious one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.sign_momentum import NETWORK, SEEDS, batches, digits_network

RATE = 1e-3
STEPS, MEASURED_EVERY = 400, 20
SIZES = (4, 16, 64, 256, None)
# All around the same Adam, whose moments depend on the gradients alone.
WRAPPERS = {
    "Adam": lambda adam: adam,
    "cautious": optkit.cautious,
    "cautious without rescaling": functools.partial(optkit.cautious, scale="none"),
    "Grams": optkit.grams,
}
ROUNDING = 1e-5
SETTING = (
    f"{NETWORK[0].upper()}{NETWORK[1:]}, trained by Adam at rate {RATE:g} for {STEPS} steps on batches of"
    f" {', '.join(map(str, SIZES[:-1]))} or all examples, {SEEDS} seeds; in every {MEASURED_EVERY}th step -<g, u> of"
    " the updates u that Adam, cautious Adam (with and without rescaling) and Grams make of the same gradients"
)


@functools.cache
def decreases(size: int | None) -> np.ndarray:
    """Trains by Adam, and measures by how much each update decreases two losses to first order, and how long it is.

    Args:
        size: of the batches; None for all examples.

    Returns:
        In units of the learning rate, `(seed, step, method, 3)`: the decrease of the batch's loss, that of the loss of
        all examples, and the length of the update.
    """
    network = digits_network()
    everything = jnp.arange(network.examples)
    rows = None if size is None else jnp.asarray(batches(network.examples, size, STEPS))
    optimizers = [wrap(optax.adam(RATE)) for wrap in WRAPPERS.values()]
    gradient = jax.grad(network.loss)

    def train(key, rows):
        def step(carry, batch):
            params, states = carry
            grads = gradient(params, everything if batch is None else batch)
            made = [tx.update(grads, state, params) for tx, state in zip(optimizers, states, strict=True)]
            updates = [update for update, _ in made]
            states = [state for _, state in made]
            return (optax.apply_updates(params, updates[0]), states), (params, grads, updates)

        def stretch(carry, batches):
            carry, (params, grads, updates) = jax.lax.scan(step, carry, batches, length=MEASURED_EVERY)
            params, grads, updates = jax.tree.map(lambda x: x[-1], (params, grads, updates))
            whole = grads if rows is None else gradient(params, everything)
            found = [[*(optax.tree.vdot(g, u) for g in (grads, whole)), optax.tree.norm(u)] for u in updates]
            return carry, jnp.array(found) / jnp.array([-RATE, -RATE, RATE])

        params = network.init(key)
        carry = params, [tx.init(params) for tx in optimizers]
        if rows is not None:
            rows = rows.reshape(-1, MEASURED_EVERY, size)
        return jax.lax.scan(stretch, carry, rows, length=STEPS // MEASURED_EVERY)[1]

    keys = jax.random.split(jax.random.key(0), SEEDS)
    return np.asarray(jax.jit(jax.vmap(train, (0, None if rows is None else 0)))(keys, rows))


def size_in_words(size: int | None) -> str:
    """Says how large the batches are."""
    return "all" if size is None else f"batch {size}"


def measure() -> Finding:
    """Compares the decreases of the batch."""
    said, holds = [], True
    for size in SIZES:
        found = dict(zip(WRAPPERS, np.moveaxis(decreases(size)[..., 0], -1, 0), strict=True))
        slack = ROUNDING * found["Grams"]
        holds &= bool(np.all(found["Grams"] >= found["cautious without rescaling"] - slack))
        holds &= bool(np.all(found["cautious without rescaling"] >= found["Adam"] - slack))
        uphill = np.mean(found["Adam"] < 0)
        ratios = (f"{name} {np.mean(found[name]) / np.mean(found['Adam']):.2f}" for name in list(WRAPPERS)[1:])
        said.append(f"{size_in_words(size)}: {', '.join(ratios)} (Adam uphill in {uphill:.0%} of steps)")
    return Finding(f"mean decrease in units of Adam's: {'; '.join(said)}", holds)


CLAIM = Claim(
    method="grams",
    arxiv="2412.17107",
    statement=(
        "To first order Grams decreases the loss of its batch at least as much as a cautious step without rescaling,"
        " and that at least as much as Adam."
    ),
    experiment=f"{SETTING}, where g is the gradient of the same batch.",
    required=f"so in every measured step, to {ROUNDING:g} (rounding); the rescaled cautious step reported",
    measure=measure,
)
