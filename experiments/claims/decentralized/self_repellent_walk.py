"""Self-repellent walks: how the error falls with the strength of the repulsion."""

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import optax

from experiments.claims import Claim, Finding
from optkit.decentralized import metropolis_walk, self_repellent_walk, train_along_path

WORKERS, STEPS, RUNS = 16, 4000, 100
ALPHAS = (0.0, 5.0, 20.0)
WALK_EXPONENT, RATE_EXPONENT = 0.8, 0.9


def errors():
    """The mean squared error at the end for each strength."""
    graph = nx.cycle_graph(WORKERS)
    graph.add_edge(0, WORKERS // 2)
    chain = metropolis_walk(graph)
    targets = jnp.arange(WORKERS) - (WORKERS - 1) / 2
    tx = optax.sgd(lambda count: (jnp.asarray(count, float) + 2) ** -RATE_EXPONENT)

    def error(key, alpha):
        path = self_repellent_walk(key, STEPS, chain, alpha, exponent=WALK_EXPONENT)
        return train_along_path(path, tx, lambda worker, x: x - targets[worker], jnp.array(0.0))[0] ** 2

    keys = jax.random.split(jax.random.key(0), RUNS)
    over_alphas = jax.vmap(jax.vmap(error, (0, None)), (None, 0))
    return np.mean(jax.jit(over_alphas)(keys, jnp.array(ALPHAS)), axis=1)


def measure():
    """Compares the walk without repulsion to repellent ones."""
    found = dict(zip(ALPHAS, errors().tolist(), strict=True))
    ratio = found[0.0] / found[5.0]
    figures = ", ".join(f"{error:.1e} with alpha {alpha:g}" for alpha, error in found.items())
    return Finding(f"squared error {figures}: {ratio:.0f} times less with alpha 5 than without", ratio > 5)


CLAIM = Claim(
    method="self_repellent_walk",
    arxiv="2401.09665",
    statement="The variance of what one travelling copy learns falls as one over the square of the repulsion.",
    experiment=f"f_i(x) = (x - c_i)^2 / 2 on a ring of {WORKERS} workers with a chord, targets c_i from -7.5 to 7.5,"
    f" {STEPS} moves, steps (n + 2)^-{RATE_EXPONENT}, memory (n + 2)^-{WALK_EXPONENT}, mean of {RUNS} runs.",
    required="with alpha 5 an error more than 5 times smaller than with alpha 0",
    measure=measure,
)
