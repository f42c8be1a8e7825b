"""Whether methods with a memory of the last step settle on a topology: a contraction alone does not say so."""

from collections.abc import Callable
from typing import Any

import numpy as np

from optkit.decentralized.topology import Topology

_ROUNDING = 1e-9


def require_decay(method: str, topology: Topology, step: Callable[[np.ndarray, np.ndarray], Any], advice: str) -> None:
    """Raises unless workers that disagree come together, where gradients do not tell them apart.

    Args:
        method: the method's name, for the message.
        topology: who hears whom.
        step: gives, of a mixing matrix and the identity, the four blocks by which a step takes parameters and
            corrections to the next ones.
        advice: what to do, for the message.

    Raises:
        ValueError: if they do not.

    Example:
        >>> from optkit.decentralized.topology import ring
        >>> require_decay("gossip", ring(4), lambda mixing, one: [[mixing, 0 * one], [0 * one, 0 * one]], "")
    """
    identity = np.eye(topology.size)
    of_differences = np.kron(np.eye(2), identity - 1 / topology.size)
    period = of_differences
    for matrix in topology.matrices:
        period = np.block(step(matrix, identity)) @ period
    growth = float(np.max(np.abs(np.linalg.eigvals(period @ of_differences))))
    if growth > 1 - _ROUNDING:
        span = "a step" if topology.period == 1 else f"its period of {topology.period} steps"
        raise ValueError(
            f"{method} does not settle on this topology: what workers differ by grows {growth:.6g}-fold in {span},"
            f" which must be less than 1. {advice}"
        )
