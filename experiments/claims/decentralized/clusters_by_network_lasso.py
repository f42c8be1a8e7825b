"""The network lasso finds two clusters of nodes, and where its optimum lies."""

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np

from experiments.claims import Claim, Finding
from optkit.decentralized import network_lasso

NODES, SIZE, GAP, NOISE, PENALTY, SWEEPS, SEEDS = 12, 5, 10.0, 1.0, 2.0, 4000, 8
TOLERANCE, BETTER = 1e-6, 0.5


def measure() -> Finding:
    """Denoises two cliques that one edge joins, and compares with the optimum in closed form."""
    graph, half = nx.barbell_graph(NODES // 2, 0), NODES // 2
    off, ratios = [], []
    with jax.enable_x64(True):
        for seed in range(SEEDS):
            rng = np.random.default_rng(seed)
            centers = np.repeat(rng.standard_normal((2, SIZE)), half, axis=0)
            centers[half:] += GAP / SIZE**0.5
            data = centers + NOISE * rng.standard_normal((NODES, SIZE))

            def to_data(points, steps, data=data):
                return (points + steps[:, None] * data) / (1 + steps[:, None])

            found = np.asarray(network_lasso(to_data, jnp.asarray(data), graph, PENALTY, sweeps=SWEEPS))
            # Within a cluster all are equal; the one edge between them pulls on the cluster's mean.
            means = data[:half].mean(axis=0), data[half:].mean(axis=0)
            pull = PENALTY / half * (means[1] - means[0]) / np.linalg.norm(means[1] - means[0])
            optimum = np.repeat([means[0] + pull, means[1] - pull], half, axis=0)
            off.append(float(np.max(np.abs(found - optimum))))
            ratios.append(float(np.sum((found - centers) ** 2) / np.sum((data - centers) ** 2)))
    return Finding(
        f"at most {max(off):.0e} off the optimum, {min(ratios):.2f} to {max(ratios):.2f} of the data's squared error",
        max(off) <= TOLERANCE and max(ratios) <= BETTER,
    )


CLAIM = Claim(
    method="network_lasso",
    arxiv="1507.00280",
    statement="ADMM reaches the optimum of the network lasso, at which the nodes of a cluster share their parameters,"
    " and learn from each other.",
    experiment=f"f_i(x) = |x - a_i|^2 / 2 with {SIZE} parameters on two cliques of {NODES // 2} nodes that one edge"
    f" joins, data a_i with noise of deviation {NOISE:g} around two centers about {GAP:g} apart, penalty {PENALTY:g},"
    f" {SWEEPS:,} sweeps, {SEEDS} seeds, float64.",
    required=f"each parameter within {TOLERANCE:g} of the optimum in closed form, at most {BETTER:g} of the data's"
    " squared error",
    measure=measure,
)
