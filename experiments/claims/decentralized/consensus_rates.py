"""Values come to agree at the rate that the spectral gap of each topology predicts."""

import math

import jax
import jax.numpy as jnp
import numpy as np

import optkit
from experiments.claims import Claim, Finding

WORKERS, NUMBERS, SMALLEST, MARGIN = 16, 200, 1e-9, 0.05
TOPOLOGIES = {
    "ring": optkit.topology.ring(WORKERS),
    "path": optkit.topology.path(WORKERS),
    "grid": optkit.topology.grid(WORKERS),
    "torus": optkit.topology.torus(WORKERS),
    "hypercube": optkit.topology.hypercube(WORKERS),
    "star": optkit.topology.star(WORKERS),
    "binary tree": optkit.topology.binary_tree(WORKERS),
    "exponential": optkit.topology.exponential(WORKERS),
    "Erdos-Renyi": optkit.topology.erdos_renyi(WORKERS, 0.3, seed=0),
    "lazy ring": optkit.topology.ring(WORKERS).lazy(),
}
EXACT = {
    "complete": optkit.topology.complete(WORKERS),
    "one-peer exponential": optkit.topology.one_peer_exponential(WORKERS),
}


def distances(topology: optkit.topology.Topology, steps: int) -> np.ndarray:
    """Gives the distance from the mean before the first exchange and after each."""
    values = jnp.asarray(np.random.default_rng(0).standard_normal((WORKERS, NUMBERS)))

    def exchange(values, step):
        mixed = jax.vmap(lambda x: optkit.mix(x, topology, "workers", step=step), axis_name="workers")(values)
        return mixed, jnp.linalg.norm(mixed - values.mean(axis=0))

    _, found = jax.jit(lambda values: jax.lax.scan(exchange, values, jnp.arange(steps)))(values)
    return np.array([np.linalg.norm(values - values.mean(axis=0)), *found])


def rounds_against_prediction(topology: optkit.topology.Topology) -> float:
    """Gives by how much the logarithm of the rate, over the second half of the rounds, is off."""
    predicted = math.log(topology.contraction)
    steps = 2 * math.ceil(math.log(SMALLEST) / predicted / 2)
    found = distances(topology, steps)
    return math.log(found[-1] / found[steps // 2]) / (steps / 2) / predicted - 1


def measure() -> Finding:
    """Mixes random values until they nearly agree."""
    with jax.enable_x64(True):
        off = {name: rounds_against_prediction(topology) for name, topology in TOPOLOGIES.items()}
        left = {
            name: (found := distances(topology, topology.period))[-1] / found[0] for name, topology in EXACT.items()
        }
    worst = max(off, key=lambda name: abs(off[name]))
    return Finding(
        f"off by at most {abs(off[worst]):.1%} ({worst}) of {len(off)} topologies; after one period there is left "
        + ", ".join(f"{share:.0e} ({name})" for name, share in left.items()),
        abs(off[worst]) <= MARGIN and max(left.values()) <= 1e-12,
    )


CLAIM = Claim(
    method="gossip",
    arxiv="2110.13363",
    statement="Each round of gossip shrinks the distance from the mean by ||W - 11'/n||; one-peer exponential exchanges"
    " among a power of two workers end at the mean itself after one period.",
    experiment=f"{WORKERS} workers with {NUMBERS} normal numbers each mix until {SMALLEST:g} of the distance is left,"
    f" float64; the rate over the second half of the rounds, for {', '.join(TOPOLOGIES)}.",
    required=f"logarithm of the rate within {MARGIN:.0%} of the predicted one for each; complete and one-peer"
    " exponential: at most 1e-12 of the distance left after a period",
    measure=measure,
)
