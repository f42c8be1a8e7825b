"""What the medians over samples, microbatches or workers have in common."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from optkit.core.workers.aggregation import LARGEST_NETWORK, mean_of_rows, replace_rows, sort_rows

NanPolicy = Literal["propagate", "omit"]
Start = Literal["zeros", "mean", "median"]


def median_of_rows(rows: Any, nan_policy: NanPolicy, active: jax.Array | None = None) -> Any:
    """Takes the median of each coordinate; for an even number of rows, the mean of the two middle values.

    Args:
        rows: A tree of stacked rows.
        nan_policy: Whether NaN makes the median NaN ("propagate") or is left out ("omit").
        active: Which rows take part. Default: all.
    """

    def median(x):
        if len(x) > LARGEST_NETWORK:
            return jnp.median(x, axis=0) if nan_policy == "propagate" else jnp.nanmedian(x, axis=0)
        if nan_policy == "propagate":
            ordered = sort_rows(x)
            return (ordered[(len(x) - 1) // 2] + ordered[len(x) // 2]) / 2
        count = sum((~jnp.isnan(x[i])).astype(jnp.int32) for i in range(len(x)))
        ordered = sort_rows(jnp.where(jnp.isnan(x), jnp.inf, x))
        lower = upper = jnp.full_like(x[0], jnp.nan)
        for i, value in enumerate(ordered):
            lower = jnp.where((count - 1) // 2 == i, value, lower)
            upper = jnp.where(count // 2 == i, value, upper)
        return jnp.where(count == 0, jnp.nan, (lower + upper) / 2)

    if active is None:
        return jax.tree.map(median, rows)
    medians = median_of_rows(replace_rows(rows, active, jnp.nan), "omit")
    if nan_policy == "omit":
        return medians
    return jax.tree.map(
        lambda x, m: jnp.where(jnp.any(jnp.isnan(x), axis=0), jnp.nan, m), replace_rows(rows, active, 0.0), medians
    )


def starting_point(start: Start, rows: Any, nan_policy: NanPolicy, active: jax.Array | None = None) -> Any:
    """Returns the point from which iterations towards a median start.

    Args:
        start: Which point: "zeros", "mean" or "median".
        rows: A tree of stacked rows, with leaves.
        nan_policy: For the coordinate-wise median, see `median_of_rows`.
        active: Which rows take part. Default: all.
    """
    if start == "median":
        return median_of_rows(rows, nan_policy, active)
    if start == "zeros":
        return jax.tree.map(lambda x: jnp.zeros_like(x[0]), rows)
    return mean_of_rows(rows, jnp.ones(len(jax.tree.leaves(rows)[0])) if active is None else active)
