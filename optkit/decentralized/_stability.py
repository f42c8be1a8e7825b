"""Checks that methods which remember the last step settle on a topology. That mixing is a contraction is not enough."""

from collections.abc import Callable
from typing import Any

import numpy as np

from optkit.decentralized.topology import Topology

_ROUNDING = 1e-9


def require_decay(method: str, topology: Topology, step: Callable[[np.ndarray, np.ndarray], Any], advice: str) -> None:
    """Raises an error unless workers that disagree come together when their gradients do not differ.

    Args:
        method: The method's name, for the message.
        topology: Which workers exchange messages, from `optkit.topology`.
        step: A function of a mixing matrix and the identity. It returns the four blocks of the matrix that maps
            parameters and corrections to those of the next step.
        advice: What the user should do, for the message.

    Raises:
        ValueError: If they do not come together.

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
            f"{method} does not settle on this topology: the workers' disagreement grows {growth:.6g}-fold in {span},"
            f" and this factor must be less than 1. {advice}"
        )
