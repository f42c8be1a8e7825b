"""What medians over samples, microbatches or workers share."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from optax.experimental import aggregating

from optkit.core.aggregation import LARGEST_NETWORK, replace_rows, sort_rows
from optkit.core.checks import check_range
from optkit.core.precision import in_float32

NanPolicy = Literal["propagate", "omit"]
Start = Literal["zeros", "mean", "median"]


def median_of_rows(rows: Any, nan_policy: NanPolicy, present: jax.Array | None = None) -> Any:
    """Takes the median of each coordinate, of an even number of rows the mean of the two middle values.

    Args:
        rows: a tree of stacked rows.
        nan_policy: whether NaN makes the median NaN ("propagate"), or is left out of it ("omit").
        present: which rows take part, all by default.
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

    if present is None:
        return jax.tree.map(median, rows)
    medians = median_of_rows(replace_rows(rows, present, jnp.nan), "omit")
    if nan_policy == "omit":
        return medians
    return jax.tree.map(
        lambda x, m: jnp.where(jnp.any(jnp.isnan(x), axis=0), jnp.nan, m), replace_rows(rows, present, 0.0), medians
    )


def descend_along(
    aggregator: aggregating.Aggregator,
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: float | jax.Array,
    mask: Any | None,
) -> optax.GradientTransformationExtraArgs:
    """Descends along what an aggregator makes of the rows, with decoupled weight decay."""
    check_range("weight_decay", weight_decay, 0.0)
    decay = optax.add_decayed_weights(weight_decay, mask)
    return in_float32(optax.chain(aggregator, decay, optax.scale_by_learning_rate(learning_rate)))
