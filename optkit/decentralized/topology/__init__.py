"""Who hears whom: mixing matrices with the messages that realise them."""

from optkit.decentralized.topology import _graphs, _plot, _topology, _weights
from optkit.decentralized.topology._graphs import (
    binary_tree,
    circulant,
    complete,
    erdos_renyi,
    exponential,
    from_graph,
    grid,
    hypercube,
    one_peer_exponential,
    path,
    random_matchings,
    ring,
    sequence,
    star,
    symmetric_exponential,
    torus,
)
from optkit.decentralized.topology._plot import plot
from optkit.decentralized.topology._topology import Topology
from optkit.decentralized.topology._weights import max_degree_weights, metropolis_weights, uniform_weights
from optkit.method import methods_of

__all__ = [
    "Topology",
    "binary_tree",
    "circulant",
    "complete",
    "erdos_renyi",
    "exponential",
    "from_graph",
    "grid",
    "hypercube",
    "max_degree_weights",
    "metropolis_weights",
    "one_peer_exponential",
    "path",
    "plot",
    "random_matchings",
    "ring",
    "sequence",
    "star",
    "symmetric_exponential",
    "torus",
    "uniform_weights",
]

METHODS = methods_of(_topology, _graphs, _weights, _plot)
