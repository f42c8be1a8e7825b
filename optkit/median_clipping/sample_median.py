"""What medians over samples, microbatches or workers share: one rule over rows, gathered once."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax
from optax.experimental import aggregating

from optkit.core.checks import check_range
from optkit.core.precision import in_float32, widen
from optkit.core.rows import over_rows, require_reduced, sum_rows

NanPolicy = Literal["propagate", "omit"]
Start = Literal["zeros", "mean", "median"]

# Compiling a network takes long where there are more rows.
_LARGEST_NETWORK = 64


def check_option(name: str, value: Any, options: Any) -> None:
    """Raises unless an option is one of those that its type lists."""
    if value not in get_args(options):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, get_args(options)))}, got {value!r}")


def gather_rows(row: Any, axis_name: str) -> Any:
    """Stacks all rows; known to be equal on all workers where JAX tracks that."""

    def gather(x):
        kind = jax.typeof(x).manual_axis_type
        tracked = kind is not None and axis_name in kind.varying
        return jax.lax.all_gather(x, axis_name, to="invarying" if tracked else "varying")

    return jax.tree.map(gather, row)


def _sort(rows: list[jax.Array]) -> list[jax.Array]:
    """Sorts each coordinate by Batcher's network (Knuth, The Art of Computer Programming 5.2.2, algorithm M).

    NaN spreads to all values. XLA sorts along a leading axis some hundred times slower.
    """
    rows = list(rows)
    top = 1 << (len(rows) - 1).bit_length() >> 1
    p = top
    while p:
        q, r, d = top, 0, p
        while d:
            for i in range(len(rows) - d):
                if i & p == r:
                    rows[i], rows[i + d] = jnp.minimum(rows[i], rows[i + d]), jnp.maximum(rows[i], rows[i + d])
            q, r, d = q >> 1, p, q - p
        p >>= 1
    return rows


def median_of_rows(rows: Any, nan_policy: NanPolicy) -> Any:
    """Takes the median of each coordinate, of an even number of rows the mean of the two middle values."""

    def median(x):
        if len(x) > _LARGEST_NETWORK:
            return jnp.median(x, axis=0) if nan_policy == "propagate" else jnp.nanmedian(x, axis=0)
        values = [x[i] for i in range(len(x))]
        if nan_policy == "propagate":
            ordered = _sort(values)
            return (ordered[(len(x) - 1) // 2] + ordered[len(x) // 2]) / 2
        count = sum((~jnp.isnan(value)).astype(jnp.int32) for value in values)
        ordered = _sort([jnp.where(jnp.isnan(value), jnp.inf, value) for value in values])
        lower = upper = jnp.full_like(x[0], jnp.nan)
        for i, value in enumerate(ordered):
            lower = jnp.where((count - 1) // 2 == i, value, lower)
            upper = jnp.where(count // 2 == i, value, upper)
        return jnp.where(count == 0, jnp.nan, (lower + upper) / 2)

    return jax.tree.map(median, rows)


def mean_of_rows(rows: Any, weights: jax.Array) -> Any:
    """Averages rows by weights."""
    return sum_rows(rows, weights / jnp.sum(weights))


def aggregator_of_rows(method: str, rule: Callable[..., Any], axis_name: str | None) -> aggregating.Aggregator:
    """Makes an aggregator without state of a rule over rows, computed in float32 at least."""
    over = over_rows(rule, axis_name)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        median = optax.tree.cast_like(over(widen(updates)), updates)
        require_reduced(median, params, method)
        return median, state

    return aggregating.Aggregator(optax.init_empty_state, update_fn)


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
