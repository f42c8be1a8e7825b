"""Chebyshev's polynomial brings values much nearer to their mean than as many rounds of plain mixing."""

import jax
import jax.numpy as jnp
import numpy as np

import optkit
from experiments.claims import Claim, Finding
from optkit.decentralized import chebyshev_mix

WORKERS, NUMBERS, ROUNDS, REQUIRED = 16, 200, 20, 20


def distance_left(
    mixing: optkit.typing.Mixing, topology: optkit.topology.Topology, values: jax.Array, **arguments: jax.Array
) -> float:
    """Gives the share of the distance from the mean that a mixing leaves."""
    mixed = jax.vmap(lambda x: mixing(x, topology, "workers", **arguments), axis_name="workers")
    mean = values.mean(axis=0)
    return float(jnp.linalg.norm(jax.jit(mixed)(values) - mean) / jnp.linalg.norm(values - mean))


def measure() -> Finding:
    """Mixes random values on a ring."""
    with jax.enable_x64(True):
        values = jnp.asarray(np.random.default_rng(0).standard_normal((WORKERS, NUMBERS)))
        plain, chebyshev = (
            distance_left(make(ROUNDS), optkit.topology.ring(WORKERS), values)
            for make in (optkit.repeated_mix, chebyshev_mix)
        )
    return Finding(f"{chebyshev:.1e} of the distance left against {plain:.1e}", plain >= REQUIRED * chebyshev)


CLAIM = Claim(
    method="chebyshev_mix",
    arxiv="1702.08704",
    statement="Chebyshev acceleration needs about the root of the rounds that plain gossip needs.",
    experiment=f"A ring of {WORKERS} workers with {NUMBERS} normal numbers each, {ROUNDS} rounds, float64.",
    required=f"at most 1/{REQUIRED} of the distance that plain mixing leaves",
    measure=measure,
)
