"""Rules over all rows at once, for rows stacked along a leading axis and for the rows of workers.

A rule is a function `rule(rows, near, total=total)` of stacked rows. It passes what it sums over coordinates (norms,
distances) to `total`, so that workers can also hold one slice of the coordinates each. Aggregators of such rules take
two extra arguments: `active`, an array of booleans, one per row and equal on all workers, that says which rows take
part; and `total`, from an aggregator that calls them with a slice.
"""

import dataclasses
import functools
import math
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import optax
from optax.experimental import aggregating

from optkit.core.checks import check_option
from optkit.core.complex_numbers import refuse_complex
from optkit.core.injection import refuse_arrays
from optkit.core.precision import scalar_dtype, widen
from optkit.core.types import AxisName
from optkit.core.workers.rows import require_reduced, require_rows, sum_rows

Layout = Literal["gather", "transpose"]

# With more rows than this, a sorting network takes long to compile.
LARGEST_NETWORK = 64


@dataclasses.dataclass(frozen=True)
class Total:
    """Turns numbers that each worker computed from its slice of the coordinates into numbers of all coordinates.

    Attributes:
        axis_name: Name of the axis over workers. Each worker then holds a slice. None (the default): all coordinates
            are present.
    """

    axis_name: AxisName | None = None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Sums over the slices."""
        return x if self.axis_name is None else jax.lax.psum(x, self.axis_name)

    def max(self, x: jax.Array) -> jax.Array:
        """Takes the largest value over the slices; it has no gradient."""
        x = jax.lax.stop_gradient(x)
        return x if self.axis_name is None else jax.lax.pmax(x, self.axis_name)


class Rule(Protocol):
    """The type of the rules of `over_all_rows`: a function from stacked rows to one row."""

    def __call__(self, rows: Any, near: Any, /, *, total: Total) -> Any:
        """Makes one row from all rows.

        Args:
            rows: A tree of stacked rows, in at least float32.
            near: What the caller passed together with the rows: a tree shaped like a row, or None.
            total: Sums over all coordinates what was summed over the coordinates that the rule sees.

        Returns:
            A tree shaped like a row.
        """
        ...


class RuleOfActive(Protocol):
    """The type of the rules of `aggregator_of_rows`: a function from stacked rows, some of them absent, to one row."""

    def __call__(self, rows: Any, /, *, active: jax.Array | None, total: Total) -> Any:
        """Makes one row from all rows.

        Args:
            rows: A tree of stacked rows, in at least float32.
            active: Which rows take part, or None for all.
            total: Sums over all coordinates what was summed over the coordinates that the rule sees.

        Returns:
            A tree shaped like a row.
        """
        ...


class OverAllRows(Protocol):
    """A rule as a function of stacked rows, or of one worker's row."""

    def __call__(self, updates: Any, near: Any = None, *, params: Any = None, total: Total | None = None) -> Any:
        """Makes one row from all rows.

        Args:
            updates: The stacked rows, or the row of this worker.
            near: A tree shaped like a row, for the rule.
            params: The parameters, if known. The result must have their shapes.
            total: From a caller that passes a slice of the stacked rows, and gathers the results.

        Returns:
            A tree shaped like a row, in the dtypes of the rows.
        """
        ...


def check_layout(axis_name: AxisName | None, layout: Layout) -> None:
    """Raises unless a layout is known, and has an axis if it needs one."""
    refuse_arrays(axis_name=axis_name, layout=layout)
    check_option("layout", layout, Layout)
    if axis_name is None and layout == "transpose":
        raise ValueError("layout='transpose' is for workers: give axis_name too, or use layout='gather'")


def over_all_rows(method: str, rule: Rule, axis_name: AxisName | None, layout: Layout = "gather") -> OverAllRows:
    """Turns a rule over stacked rows into a function of stacked rows, or of one worker's row, with the same results.

    Args:
        method: The public name of the aggregator.
        rule: Makes one row from all rows.
        axis_name: Name of the axis over workers. Each worker then passes its own row and receives the result. None:
            rows are stacked along the leading axis of each leaf.
        layout: With "gather", every worker receives all rows, and sends its own row n - 1 times. With "transpose", it
            receives a slice of all rows (`all_to_all`), and the results for the slices are gathered. This sends 2 (n -
            1) / n times the bytes of a row, and a `psum` of what the rule sums over coordinates. The rule then sees all
            leaves of one dtype as a single leaf. Default: "gather".

    Returns:
        A function of the row, or of the stacked rows. It raises a `TypeError` if they are complex, and a `ValueError`
        if they have no leading axis.

    Raises:
        ValueError: If `layout` is unknown, or is "transpose" without an axis.

    Example:
        >>> def rule(rows, near, *, total):
        ...     return rows[0] + total(jnp.sum(rows))
        >>> over_all_rows("first_and_sum", rule, None)(jnp.array([[1.0], [3.0]]))
        Array([5.], dtype=float32)
    """
    check_layout(axis_name, layout)

    def apply(updates, near=None, *, params=None, total=None):
        refuse_complex(updates, method)
        if total is None and axis_name is not None and layout == "transpose":
            result = _transposed(rule, axis_name, updates, near)
        else:
            rows = updates if axis_name is None else gather_rows(updates, axis_name)
            require_rows(rows, method)
            result = optax.tree.cast_like(rule(widen(rows), near, total=total or Total()), updates)
        require_reduced(result, params, method)
        return result

    return apply


def aggregator_of_rows(
    method: str, rule: RuleOfActive, axis_name: AxisName | None, layout: Layout = "gather"
) -> aggregating.Aggregator:
    """Makes an aggregator without state from a rule.

    Args:
        method: The public name of the aggregator.
        rule: Makes one row from those that take part.
        axis_name: See `over_all_rows`.
        layout: See `over_all_rows`. Default: "gather".

    Returns:
        An aggregator that takes the extra arguments `active` and `total`.

    Raises:
        ValueError: If `layout` is unknown, or is "transpose" without an axis.
    """
    check_layout(axis_name, layout)

    def update_fn(updates, state, params=None, *, active=None, total=None, **extra_args):
        del extra_args

        def of_active(rows, near, *, total):
            del near
            return rule(rows, active=active, total=total)

        return over_all_rows(method, of_active, axis_name, layout)(updates, params=params, total=total), state

    return aggregating.Aggregator(optax.init_empty_state, update_fn)


def gather_rows(row: Any, axis_name: AxisName) -> Any:
    """Stacks all rows; if JAX tracks what varies between workers, it knows that the result does not."""

    def gather(x):
        kind = jax.typeof(x).manual_axis_type
        tracked = kind is not None and axis_name in kind.varying
        return jax.lax.all_gather(x, axis_name, to="invarying" if tracked else "varying")

    return jax.tree.map(gather, row)


def sort_rows(rows: jax.Array) -> list[jax.Array]:
    """Sorts each coordinate over the rows.

    With more than 64 rows NaN comes last; with fewer, a NaN replaces all values of its coordinate, because up to 64
    rows are sorted by Batcher's network (Knuth, The Art of Computer Programming 5.2.2, algorithm M): XLA is about a
    hundred times slower at sorting along a leading axis.
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
    """Replaces all coordinates of the rows that are not kept by one value."""
    return jax.tree.map(lambda x: jax.vmap(lambda keep, row: jnp.where(keep, row, value))(kept, x), rows)


def nan_unless(condition: jax.Array, tree: Any) -> Any:
    """Replaces a whole tree by NaN unless a condition holds, so that too few rows are noticed."""
    return jax.tree.map(lambda x: jnp.where(condition, x, jnp.nan), tree)


def mean_of_rows(rows: Any, weights: jax.Array) -> Any:
    """Averages rows by weights, numbers or booleans; the result is NaN if all are zero."""
    weights = weights.astype(scalar_dtype(rows))
    return sum_rows(rows, weights / jnp.sum(weights))


def norms(rows: Any, total: Total) -> jax.Array:
    """Returns the norm of each row over all leaves, scaled by its largest entry, so squares never overflow or vanish.

    Args:
        rows: A tree of stacked rows, with at least one leaf.
        total: Sums over all coordinates.

    Returns:
        The norms, which are NaN for rows that are not finite. The gradient is zero at zero.

    Example:
        >>> norms(jnp.array([[3e30, 4e30], [3e-30, 4e-30]]), Total())
        Array([5.e+30, 5.e-30], dtype=float32)
    """
    leaves = jax.tree.leaves(rows)
    in_leaves = [jnp.max(jnp.abs(x), axis=tuple(range(1, x.ndim)), initial=0) for x in leaves]
    largest = total.max(functools.reduce(jnp.maximum, in_leaves))
    unit = jnp.where(largest > 0, largest, 1)

    def square(*row_and_unit):
        *row, unit = row_and_unit
        return functools.reduce(jnp.add, [jnp.sum(jnp.square(x / unit.astype(x.dtype))) for x in row])

    squares = total(jax.vmap(square)(*leaves, unit))
    return largest * jnp.sqrt(jnp.where(largest > 0, squares, squares + 1))


def differences(rows: Any, center: Any) -> Any:
    """Subtracts a point from each row."""
    return jax.vmap(lambda row: optax.tree.sub(row, center))(rows)


def distances(rows: Any, center: Any, total: Total) -> jax.Array:
    """Returns the distance of each row from a point, over all leaves.

    It is computed from differences and not from inner products, which would lose half of the digits.
    """
    return norms(differences(rows, center), total)


def squared_distances(rows: Any, center: Any) -> jax.Array:
    """Returns the squared distance of each row from a point, over the coordinates that are present."""
    return jax.vmap(lambda row: optax.tree.norm(optax.tree.sub(row, center), squared=True))(rows)


def _transposed(rule: Rule, axis_name: AxisName, row: Any, near: Any) -> Any:
    """Applies a rule to a slice of the coordinates of all rows, and gathers the results of all workers' slices."""
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
    slice_of_near = None if near is None else jax.tree.map(lambda x: x[worker], pack(near))
    result = rule(widen(rows), slice_of_near, total=Total(axis_name))
    whole = jax.tree.map(jnp.ravel, gather_rows(optax.tree.cast_like(result, rows), axis_name))
    for dtype, indices in places.items():
        ends = [math.prod(leaves[i].shape) for i in indices]
        pieces = jnp.split(whole[dtype][: sum(ends)], [sum(ends[:k]) for k in range(1, len(ends))])
        for i, piece in zip(indices, pieces, strict=True):
            leaves[i] = piece.reshape(leaves[i].shape)
    return jax.tree.unflatten(treedef, leaves)
