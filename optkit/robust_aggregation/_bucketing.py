"""Bucketing: averages small random groups of rows before another rule aggregates them.

Karimireddy, He, Jaggi, "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing", 2020, arXiv:2006.09365.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from optax.experimental import aggregating

from optkit.core.checks import check_count
from optkit.core.injection import refuse_arrays
from optkit.core.keys import key_data, split
from optkit.core.types import AxisName, Key
from optkit.core.workers.aggregation import Layout, check_layout, over_all_rows, replace_rows
from optkit.method import Method, Paper
from optkit.robust_aggregation._checks import require_slices
from optkit.robust_aggregation._trimmed_mean import trimmed_mean

__all__ = ["bucketing"]


class BucketingState(NamedTuple):
    """State of `bucketing`.

    Attributes:
        key: Raw data of the key that the next groups are drawn with. It is equal on all workers.
        inner: State of the rule that follows.
    """

    key: jax.Array
    inner: Any


def bucket_means(
    rows: Any, permutation: jax.Array, size: int, active: jax.Array | None = None
) -> tuple[Any, jax.Array | None]:
    """Averages rows in groups.

    Args:
        rows: A tree of stacked rows.
        permutation: The order of the rows. Each `size` consecutive rows are a group; the last group may be smaller.
        size: Number of rows in a group.
        active: Which rows take part. Default: all.

    Returns:
        The means, stacked, and which groups have an active row, or None if `active` is None.
    """
    count = len(permutation)
    buckets = -(-count // size)
    taking_part = jnp.ones(count, bool) if active is None else active
    if active is not None:
        rows = replace_rows(rows, active, 0.0)

    def places(x):
        padding = (0, buckets * size - count), *((0, 0),) * (x.ndim - 1)
        shuffled = jnp.pad(jnp.take(x, permutation, axis=0), padding)  # indexing asks for int64 where 2**31 entries are
        return [shuffled[k::size] for k in range(size)]

    members = functools.reduce(jnp.add, places(taking_part.astype(jnp.int32)))

    def mean(x):
        shape = -1, *(1,) * (x.ndim - 1)
        return functools.reduce(jnp.add, places(x)) / jnp.maximum(members, 1).reshape(shape).astype(x.dtype)

    return jax.tree.map(mean, rows), None if active is None else members > 0


def bucketing(
    aggregator: aggregating.Aggregator,
    size: int | None = None,
    *,
    key: Key,
    axis_name: AxisName | None = None,
    layout: Layout = "gather",
) -> aggregating.Aggregator:
    """Averages rows in small groups, drawn anew in each step, before another rule aggregates the means.

    The rule, for n rows g_i in a random order that is drawn in each step::

        y_1 = mean of the first `size` rows, y_2 = mean of the next `size` rows, ...
        u = aggregator(y_1, y_2, ...)

    Use it when the workers' data differ: means differ less than rows do, so the rule that follows withstands attacks
    better. Avoid it when attackers are many, because one arbitrary row spoils the mean of its group: the rule that
    follows must withstand as many arbitrary rows as before, among only n / size rows.

    Args:
        aggregator: The rule that follows, for stacked rows (without an axis name), for example `coordinate_median()`.
        size: Number of rows in a group, at least 1. The last group may be smaller. Default: 2.
        key: Seed of the random draws, an integer or a JAX key. Must be equal on all workers.
        axis_name: Name of the axis over workers. Each worker then passes its own gradient. None (the default):
            gradients have a leading axis, one row per worker.
        layout: How workers exchange gradients. With "gather" each worker sends n - 1 gradients and holds n. With
            "transpose" it sends about two and holds about one, in slices; this needs `axis_name`. Default: "gather".

    Returns:
        An aggregator with a `BucketingState`. Its `update` takes the extra argument `active`: an array of booleans, one
        per row, that says which rows take part.

    Raises:
        ValueError: If `size` is not a positive integer, or if `layout` is "transpose" and the rule that follows has a
            state or needs whole rows.

    Example:
        >>> import optkit
        >>> aggregator = optkit.bucketing(optkit.coordinate_median(), size=2, key=0)
        >>> gradients = jnp.ones((7, 3))
        >>> updates, state = aggregator.update(gradients, aggregator.init(jnp.zeros(3)))
        >>> updates
        Array([1., 1., 1.], dtype=float32)

    Reference:
        arXiv:2006.09365
    """
    refuse_arrays(aggregator=aggregator, size=size)
    check_count("size", size)
    check_layout(axis_name, layout)
    together = 2 if size is None else size
    if layout == "transpose":
        require_slices(aggregator, "bucketing")

    def init_fn(params):
        return BucketingState(key=key_data(key), inner=aggregator.init(params))

    def update_fn(updates, state, params=None, *, active=None, total=None, **extra_args):
        data, fresh = split(state.key, key)
        inner = state.inner

        def rule(rows, near, *, total):
            nonlocal inner
            del near
            if not jax.tree.leaves(rows):
                return rows
            permutation = jax.random.permutation(fresh, len(jax.tree.leaves(rows)[0]))
            means, taking_part = bucket_means(rows, permutation, together, active)
            aggregate, inner = aggregator.update(
                means,
                state.inner,
                None,
                **extra_args,
                active=taking_part,
                **({} if layout == "gather" else {"total": total}),
            )
            return aggregate

        result = over_all_rows("bucketing", rule, axis_name, layout)(updates, params=params, total=total)
        return result, BucketingState(key=data, inner=inner)

    return aggregating.Aggregator(init_fn, update_fn)


HETEROGENEOUS = Paper(
    "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing", "Karimireddy, He, Jaggi", 2020, "2006.09365"
)

METHODS = (
    Method(
        name="bucketing",
        factory=bucketing,
        kind="aggregator",
        summary="Averages workers in small random groups before a robust rule.",
        paper=HETEROGENEOUS,
        also_known_as=("resampling",),
        example={"aggregator": trimmed_mean(0), "size": 2, "key": 0},
        grid=0.1,
        stacked="microbatches",
    ),
)
