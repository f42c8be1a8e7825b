"""The variance of linear sketches is what theory says, for each kind of sketch and of as many random entries."""

import jax
import jax.numpy as jnp
import numpy as np

import optkit
from experiments.claims import Claim, Finding
from optkit.typing import Compressor

DIMENSION, SIZE, DRAWS, REQUIRED = 512, 64, 2000, 0.1
SKETCHES = {
    "count": optkit.compressors.count_sketch(SIZE, key=0),
    "Hadamard": optkit.compressors.srht_sketch(SIZE, key=0),
    "Gaussian": optkit.compressors.gaussian_sketch(SIZE, key=0),
    "rand-k": optkit.compressors.rand_k(SIZE / DIMENSION, key=0),
}


def relative_variance(compressor: Compressor) -> float:
    """Returns the mean squared error of a random vector's message, in squared norms of the vector."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal(DIMENSION), jnp.float32)

    def step(state, _):
        message, state = compressor.compress(x, state)
        return state, jnp.sum((compressor.decompress(message, x) - x) ** 2)

    errors = jax.jit(lambda state: jax.lax.scan(step, state, length=DRAWS)[1])(compressor.init(x))
    return float(jnp.mean(errors) / jnp.sum(x**2))


def measure() -> Finding:
    """Draws many messages of each."""
    like = jax.ShapeDtypeStruct((DIMENSION,), jnp.float32)
    stated = {name: compressor.omega(like) for name, compressor in SKETCHES.items() if compressor.omega is not None}
    found = {name: relative_variance(SKETCHES[name]) for name in stated}
    shown = ", ".join(f"{name} {found[name]:.2f} of {stated[name]:.2f}" for name in stated)
    return Finding(shown, all(abs(found[name] / stated[name] - 1) <= REQUIRED for name in stated))


CLAIM = Claim(
    method="sketched_mean",
    arxiv="2210.08371",
    statement="The squared error of an unbiased sketch is about d / size times the squared gradient.",
    experiment=f"{DRAWS} messages of {SIZE} numbers, of one random vector of {DIMENSION}.",
    required=f"within {REQUIRED:.0%} of each sketch's stated constant",
    measure=measure,
)
