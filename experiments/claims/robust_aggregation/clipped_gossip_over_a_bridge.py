"""Clipped gossip carries information over a bottleneck at which rules that drop what is far away stop it."""

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
from optax.experimental import aggregating

import optkit
from experiments.claims import Claim, Finding

CLIQUE, SIZE, GAP, RADIUS, ROUNDS = 5, 10, 1.0, 1.0, 400
NEAR, FAR = 0.01, 0.5
TOPOLOGY = optkit.topology.from_graph(nx.barbell_graph(CLIQUE, 0))
RULES = {
    "clipped gossip": optkit.self_centered_clip(RADIUS),
    "trimmed mean": optkit.trimmed_mean(1),
    "coordinate median": optkit.coordinate_median(),
    "nearest neighbors": optkit.nearest_neighbor_average(1),
}


def gap_left(rule: aggregating.Aggregator) -> float:
    """Gives the distance between the cliques' means after all rounds over that before."""
    mixing = optkit.robust_mix(rule)
    values = 0.1 * GAP * np.random.default_rng(0).standard_normal((2 * CLIQUE, SIZE))
    values[CLIQUE:] += GAP / SIZE**0.5

    def run(values):
        return jax.lax.scan(lambda x, _: (mixing(x, TOPOLOGY, "workers"), None), values, length=ROUNDS)[0]

    mixed = np.asarray(jax.jit(jax.vmap(run, axis_name="workers"))(jnp.asarray(values)))
    after, before = (np.linalg.norm(x[:CLIQUE].mean(axis=0) - x[CLIQUE:].mean(axis=0)) for x in (mixed, values))
    return float(after / before)


def measure() -> Finding:
    """Mixes the values of two cliques by each rule."""
    with jax.enable_x64(True):
        found = {name: gap_left(rule) for name, rule in RULES.items()}
    clipped, *others = found.values()
    return Finding(
        f"{', '.join(f'{gap:.2g} by {name}' for name, gap in found.items())} of the distance between the cliques left",
        clipped <= NEAR and min(others) >= FAR,
    )


CLAIM = Claim(
    method="self_centered_clip",
    arxiv="2202.01545",
    statement="Honest workers on both sides of a bottleneck agree by clipped gossip; where each leaves out what is far"
    " from the others, they never hear of the other side.",
    experiment=f"Two cliques of {CLIQUE} workers joined by one edge, {SIZE} numbers each, the cliques {GAP:g} apart, no"
    f" attackers, {ROUNDS} rounds, radius {RADIUS:g}, float64; rules that leave out one value.",
    required=f"at most {NEAR:g} of the distance between the cliques' means left, and at least {FAR:g} by the other"
    " rules",
    measure=measure,
)
