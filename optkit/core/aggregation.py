"""Rules over all rows at once, for rows stacked along a leading axis and for those of workers.

A rule is a function `rule(rows, *trees, total)` of stacked rows. What it sums over coordinates (norms, distances) it
hands to `total`, so that workers can also hold a slice of the coordinates each. Aggregators of such rules take two
extra arguments: `present`, booleans, one for each row and equal on all workers, of which rows take part; and `total`,
from an aggregator that calls them with a slice.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax
from optax.experimental import aggregating

from optkit.core.precision import widen
from optkit.core.rows import require_reduced, sum_rows

Layout = Literal["gather", "transpose"]
Total = Callable[[jax.Array], jax.Array]
Rule = Callable[..., Any]

# Compiling a network takes long where there are more rows.
LARGEST_NETWORK = 64


def check_option(name: str, value: Any, options: Any) -> None:
    """Raises unless an option is one of those that its type lists."""
    if value not in get_args(options):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, get_args(options)))}, got {value!r}")


def over_all_rows(rule: Rule, axis_name: str | None, layout: Layout = "gather") -> Callable[..., Any]:
    """Turns a rule over stacked rows into one over stacked rows or over workers, to the same numbers.

    Args:
        rule: called as `rule(rows, *trees, total=total)` with stacked rows, in float32 at least, and trees shaped like
            a row; returns a tree shaped like a row. It sums over coordinates by `total(sum over those it sees)`.
        axis_name: the axis over workers, each of which passes its own row and gets the result; or None for rows
            stacked along the leading axis of each leaf.
        layout: with `"gather"` every worker gets all rows, and sends its own n - 1 times. With `"transpose"` it gets a
            slice of all rows (`all_to_all`), and the results of slices are gathered: 2 (n - 1) / n times the bytes of a
            row, and a `psum` of what the rule sums over coordinates. The rule then sees all leaves of a dtype as one.

    Returns:
        A function of the row, or of the stacked rows, and of the trees; the result has the row's dtypes. Called with
        `total`, it takes a slice of the stacked rows, which its caller gathers.

    Raises:
        ValueError: if `layout` is unknown, or is "transpose" without an axis.

    Example:
        >>> over_all_rows(lambda rows, *, total: rows[0] + total(jnp.sum(rows)), None)(jnp.array([[1.0], [3.0]]))
        Array([5.], dtype=float32)
    """
    check_option("layout", layout, Layout)
    if axis_name is None and layout == "transpose":
        raise ValueError("layout='transpose' is for workers: give axis_name too, or leave layout='gather'")

    def apply(updates, *trees, total=None):
        if total is None and axis_name is not None and layout == "transpose":
            return _transposed(rule, axis_name, updates, trees)
        rows = updates if axis_name is None else gather_rows(updates, axis_name)
        return optax.tree.cast_like(rule(widen(rows), *trees, total=total or (lambda x: x)), updates)

    return apply


def aggregator_of_rows(
    method: str, rule: Rule, axis_name: str | None, layout: Layout = "gather"
) -> aggregating.Aggregator:
    """Makes an aggregator without state of a rule, called as `rule(rows, present=present, total=total)`.

    Args:
        method: the public name of the aggregator.
        rule: as for `over_all_rows`; `present` says which rows take part, or is None for all.
        axis_name: as for `over_all_rows`.
        layout: as for `over_all_rows`.

    Returns:
        An aggregator that takes the extra arguments `present` and `total`.
    """
    over_all_rows(rule, axis_name, layout)  # raises where they do not fit

    def update_fn(updates, state, params=None, *, present=None, total=None, **extra_args):
        del extra_args
        over = over_all_rows(lambda rows, *, total: rule(rows, present=present, total=total), axis_name, layout)
        result = over(updates, total=total)
        require_reduced(result, params, method)
        return result, state

    return aggregating.Aggregator(optax.init_empty_state, update_fn)


def gather_rows(row: Any, axis_name: str) -> Any:
    """Stacks all rows; known to be equal on all workers where JAX tracks that."""

    def gather(x):
        kind = jax.typeof(x).manual_axis_type
        tracked = kind is not None and axis_name in kind.varying
        return jax.lax.all_gather(x, axis_name, to="invarying" if tracked else "varying")

    return jax.tree.map(gather, row)


def sort_rows(rows: jax.Array) -> list[jax.Array]:
    """Sorts each coordinate over the rows, NaN last where there are many rows, to all values where there are few.

    Up to 64 rows by Batcher's network (Knuth, The Art of Computer Programming 5.2.2, algorithm M): XLA sorts along a
    leading axis some hundred times slower.
    """
    if len(rows) > LARGEST_NETWORK:
        ordered = jnp.sort(rows, axis=0)
        return [ordered[i] for i in range(len(rows))]
    values = [rows[i] for i in range(len(rows))]
    top = 1 << (len(values) - 1).bit_length() >> 1
    p = top
    while p:
        q, r, d = top, 0, p
        while d:
            for i in range(len(values) - d):
                if i & p == r:
                    pair = values[i], values[i + d]
                    values[i], values[i + d] = jnp.minimum(*pair), jnp.maximum(*pair)
            q, r, d = q >> 1, p, q - p
        p >>= 1
    return values


def replace_rows(rows: Any, kept: jax.Array, value: float) -> Any:
    """Gives one value to all coordinates of rows that are not kept."""
    return jax.tree.map(lambda x: jax.vmap(lambda keep, row: jnp.where(keep, row, value))(kept, x), rows)


def mean_of_rows(rows: Any, weights: jax.Array) -> Any:
    """Averages rows by weights."""
    return sum_rows(rows, weights / jnp.sum(weights))


def squared_distances(rows: Any, center: Any, total: Total) -> jax.Array:
    """Gives each row's squared distance from a point, over all leaves.

    From differences, not from inner products, which would lose half of the digits.
    """
    return total(jax.vmap(lambda row: optax.tree.norm(optax.tree.sub(row, center), squared=True))(rows))


def _transposed(rule: Rule, axis_name: str, row: Any, trees: tuple[Any, ...]) -> Any:
    """Applies a rule to a slice of the coordinates of all rows, and gathers what the workers' slices give."""
    workers, worker = jax.lax.axis_size(axis_name), jax.lax.axis_index(axis_name)
    leaves, treedef = jax.tree.flatten(row)
    dtypes = sorted({leaf.dtype.name for leaf in leaves if leaf.size})
    places = {dtype: [i for i, leaf in enumerate(leaves) if leaf.dtype.name == dtype] for dtype in dtypes}

    def pack(tree):
        """Cuts a tree into one slice for each worker, all leaves of a dtype of the row together."""
        values = jax.tree.leaves(tree)

        def cut(indices):
            vector = jnp.concatenate([values[i].ravel() for i in indices])
            return jnp.pad(vector, (0, -vector.size % workers)).reshape(workers, -1)

        return {dtype: cut(indices) for dtype, indices in places.items()}

    def exchange(x):
        return jax.lax.all_to_all(x, axis_name, 0, 0, tiled=True)

    rows = jax.tree.map(exchange, pack(row))
    slices = [jax.tree.map(lambda x: x[worker], pack(tree)) for tree in trees]
    result = rule(widen(rows), *slices, total=lambda x: jax.lax.psum(x, axis_name))
    whole = jax.tree.map(jnp.ravel, gather_rows(optax.tree.cast_like(result, rows), axis_name))
    for dtype, indices in places.items():
        ends = [math.prod(leaves[i].shape) for i in indices]
        pieces = jnp.split(whole[dtype][: sum(ends)], [sum(ends[:k]) for k in range(1, len(ends))])
        for i, piece in zip(indices, pieces, strict=True):
            leaves[i] = piece.reshape(leaves[i].shape)
    return jax.tree.unflatten(treedef, leaves)
