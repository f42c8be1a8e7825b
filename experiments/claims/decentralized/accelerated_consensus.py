"""Momentum brings values nearer to their mean on a graph that loses links, as long as a skeleton stays."""

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np

import optkit
from experiments.claims import Claim, Finding
from experiments.claims.decentralized.chebyshev_consensus import distance_left
from optkit.decentralized import accelerated_mix

WORKERS, NUMBERS, ROUNDS, REQUIRED = 24, 100, 120, 100
SKELETON = nx.cycle_graph(WORKERS)


def graph_with_chords(rng: np.random.Generator) -> tuple[nx.Graph, list[tuple[int, int]]]:
    """Adds as many chords as there are workers to the ring, in the order in which they vanish."""
    graph, chords = SKELETON.copy(), []
    while len(chords) < WORKERS:
        a, b = map(int, rng.choice(WORKERS, 2, replace=False))
        if not graph.has_edge(a, b):
            graph.add_edge(a, b)
            chords.append((a, b))
    return graph, chords


def laplacian_topology(graph: nx.Graph) -> optkit.topology.Topology:
    """Takes a step against the gradient of x'Lx / 2, one over the largest eigenvalue long."""
    laplacian = nx.laplacian_matrix(graph).toarray()
    return optkit.topology.from_graph(graph, lambda _: np.eye(WORKERS) - laplacian / np.linalg.eigvalsh(laplacian)[-1])


def measure() -> Finding:
    """Mixes random values while one chord after the other vanishes, and on the ring alone."""
    rng = np.random.default_rng(0)
    graph, chords = graph_with_chords(rng)
    links = np.ones((ROUNDS, WORKERS, WORKERS), bool)
    for index, (a, b) in enumerate(chords):
        gone = slice((index + 1) * ROUNDS // (WORKERS + 1), None)
        links[gone, a, b] = links[gone, b, a] = False
    mixings = optkit.repeated_mix(ROUNDS), accelerated_mix(ROUNDS, SKELETON)
    with jax.enable_x64(True):
        values = jnp.asarray(rng.standard_normal((WORKERS, NUMBERS)))
        changing = [
            distance_left(mixing, laplacian_topology(graph), values, links=jnp.asarray(links)) for mixing in mixings
        ]
        ring = [distance_left(mixing, laplacian_topology(SKELETON), values) for mixing in mixings]
    return Finding(
        f"{changing[1]:.1e} of the distance left against {changing[0]:.1e}; on the ring alone {ring[1]:.1e} against"
        f" {ring[0]:.1e}",
        all(plain >= REQUIRED * accelerated for plain, accelerated in (changing, ring)),
    )


CLAIM = Claim(
    method="accelerated_mix",
    arxiv="2301.11817",
    statement="Consensus can be accelerated on slowly changing graphs of which a connected skeleton stays.",
    experiment=f"A ring of {WORKERS} workers with {WORKERS} random chords that vanish one after the other, {NUMBERS}"
    f" normal numbers each, {ROUNDS} rounds, float64; and the ring alone.",
    required=f"at most 1/{REQUIRED} of the distance that plain mixing leaves, on both",
    measure=measure,
)
