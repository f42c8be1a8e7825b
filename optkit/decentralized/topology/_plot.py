"""Drawings of topologies."""

from typing import Any

import numpy as np

from optkit.decentralized.topology._topology import Topology, without_diagonal
from optkit.method import Method

__all__ = ["plot"]


def plot(topology: Topology, ax: Any) -> None:
    """Draws the workers of a topology on a circle and its messages as arrows, wider for larger weights.

    A symmetric topology is drawn with plain lines of one width.

    Use it when you want to see which workers exchange messages. Avoid it with many workers, because lines then overlap.

    Args:
        topology: Which workers exchange messages, from `optkit.topology`. Of a periodic topology the messages of all
            steps are drawn.
        ax: Matplotlib axes.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> from optkit import topology
        >>> topology.plot(topology.ring(8), plt.figure().add_subplot())
    """
    import networkx as nx

    weights = np.abs(without_diagonal(topology.matrices)).mean(axis=0)
    receivers, senders = np.nonzero(weights)
    graph = nx.DiGraph()
    graph.add_nodes_from(range(topology.size))
    graph.add_edges_from(zip(senders.tolist(), receivers.tolist(), strict=True))
    width = [1 + 3 * weights[receiver, sender] / weights.max() for sender, receiver in graph.edges]
    arrows = not topology.is_symmetric
    nx.draw_networkx(
        graph if arrows else graph.to_undirected(),
        nx.circular_layout(graph),
        ax=ax,
        node_color="white",
        edgecolors="black",
        width=width if arrows else 1.5,
        font_size=9,
    )
    ax.set_axis_off()
    ax.set_title(f"{topology.size} workers, spectral gap {topology.spectral_gap:.3f}")


METHODS = (
    Method(
        name="topology.plot",
        factory=plot,
        kind="function",
        summary="Draws the workers of a topology on a circle and its messages as arrows.",
    ),
)
