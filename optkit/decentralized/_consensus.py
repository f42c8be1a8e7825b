"""Measures of how far apart the workers are.

Zhu et al., "Decentralized SGD and Average-direction SAM are Asymptotically Equivalent", 2023, arXiv:2306.02913.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from optkit.core.precision import scalar_dtype, widen
from optkit.core.types import AxisName
from optkit.method import Method, Paper

__all__ = ["consensus_covariance_trace", "consensus_distance"]


def consensus_covariance_trace(tree: Any, axis_name: AxisName) -> jax.Array:
    """Returns the trace of the covariance of the workers' values, the mean over workers of `|x_i - mean|^2`.

    To second order, decentralized SGD minimizes the loss averaged over a Gaussian around the mean that has this
    covariance: it is sharpness-aware minimization along average directions.

    Use it when you want to follow how far apart the workers are. Avoid it in every step, because it averages the values
    over all workers.

    Args:
        tree: One worker's values. Arrays that are not floating-point numbers do not count.
        axis_name: Name of the axis over workers.

    Returns:
        A scalar in float32 at least, equal on all workers.

    Example:
        >>> import jax
        >>> over_workers = jax.vmap(lambda x: consensus_covariance_trace(x, "workers"), axis_name="workers")
        >>> over_workers(jnp.array([1.0, 3.0])).tolist()
        [1.0, 1.0]

    Reference:
        arXiv:2306.02913.
    """
    values = [widen(x) for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    deviations = [x - jax.lax.pmean(x, axis_name) for x in values]
    own = jnp.asarray(optax.tree.norm(deviations, squared=True), scalar_dtype(jax.tree.map(jnp.real, values)))
    return jax.lax.pmean(own, axis_name)


def consensus_distance(tree: Any, axis_name: AxisName) -> jax.Array:
    """Returns the root mean square distance of the workers' values from their mean.

    It is the square root of `consensus_covariance_trace`.

    Use it when you want to follow how far apart the workers are, in the unit of the values. Avoid it in every step,
    because it averages the values over all workers.

    Args:
        tree: One worker's values. Arrays that are not floating-point numbers do not count.
        axis_name: Name of the axis over workers.

    Returns:
        A scalar in float32 at least, equal on all workers.

    Example:
        >>> import jax
        >>> over_workers = jax.vmap(lambda x: consensus_distance(x, "workers"), axis_name="workers")
        >>> over_workers(jnp.array([1.0, 5.0])).tolist()
        [2.0, 2.0]
    """
    return jnp.sqrt(consensus_covariance_trace(tree, axis_name))


METHODS = (
    Method(
        name="consensus_distance",
        factory=consensus_distance,
        kind="function",
        summary="The root mean square distance of the workers' values from their mean.",
        also_known_as=("consensus error", "disagreement"),
    ),
    Method(
        name="consensus_covariance_trace",
        factory=consensus_covariance_trace,
        kind="function",
        summary="The mean squared distance of the workers' values from their mean.",
        paper=Paper(
            "Decentralized SGD and Average-direction SAM are Asymptotically Equivalent",
            "Zhu et al.",
            2023,
            "2306.02913",
        ),
        also_known_as=("average-direction SAM", "consensus variance"),
    ),
)
