"""Workers that send nothing, because their gradients are not finite, and what the others do without them."""

from typing import Any

import jax
import jax.numpy as jnp

from optkit.core.precision import scalar_dtype
from optkit.core.workers.aggregation import nan_unless


def mean_weights(senders: jax.Array, like: Any) -> jax.Array:
    """Returns the weight of each worker in the mean over those that sent something.

    Args:
        senders: One boolean per worker.
        like: Arrays of the precision of the mean.

    Returns:
        Weights that sum to 1, or zeros if nobody sent anything.

    Example:
        >>> mean_weights(jnp.array([True, False, True]), jnp.zeros(2)).tolist()
        [0.5, 0.0, 0.5]
    """
    each = senders.astype(scalar_dtype(like))
    return each / jnp.maximum(jnp.sum(each), 1)


def count_missing(dropped: jax.Array, senders: jax.Array) -> jax.Array:
    """Adds the workers that sent nothing in this step to those of all steps before.

    Args:
        dropped: Their number so far.
        senders: One boolean per worker.

    Returns:
        The new number.

    Example:
        >>> count_missing(jnp.array(2), jnp.array([True, False, True])).tolist()
        3
    """
    return dropped + jnp.sum(~senders, dtype=dropped.dtype)


def nan_without_senders(senders: jax.Array, updates: Any) -> Any:
    """Replaces updates by NaN if no worker sent anything.

    Args:
        senders: One boolean per worker.
        updates: The updates.

    Returns:
        The updates, or NaN in their place.

    Example:
        >>> nan_without_senders(jnp.array([False, False]), jnp.zeros(1))
        Array([nan], dtype=float32)
    """
    return nan_unless(jnp.any(senders), updates)
