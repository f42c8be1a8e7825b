"""States of workers that come and go."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def resize_workers(
    state: Any, axes: Any, old_to_new: Sequence[int | None], *, workers: int | None = None, initial: Any = None
) -> Any:
    """Makes the state of other workers from that of the old ones, so that nothing that they still owed is lost.

    A worker's row moves to its new place. What is still owed by a worker that has left (the errors and estimates that
    `optkit.feedback` keeps, for example) is added to the first row, so that the sums over workers stay what they were.
    New workers start as `init` lets them start.

    Use it when a training goes on with more or fewer workers than it stopped with. A state of your own says what is
    owed by a class attribute: `owed = ("error",)` in a NamedTuple with the field `error`. Avoid it with
    `layout="two_phase"` of `optkit.compressed_mean` and feedback, whose errors belong to slices that change with the
    number of workers, and with `optkit.masha1` and `masha2`, whose anchor is that of the old workers.

    Args:
        state: The state of all workers, with a leading axis in the leaves that differ between them.
        axes: Which leaves differ, from `optkit.worker_axes`: 0 for those with a leading axis, None for the others.
        old_to_new: The new row of each old worker; None for a worker that has left.
        workers: The new number of workers. Default: None, one more than the largest new row.
        initial: The state of a new worker, `tx.init(params)` for one worker's parameters. Default: None, where rows of
            new workers are zero, which is what communication starts with.

    Returns:
        The state, structured as before.

    Raises:
        ValueError: If `old_to_new` has not one entry for each old worker, or two workers get one row, or a row is
            outside the new number of workers.

    Example:
        Worker 1 of three has left; its error goes to the first row.

        >>> import optkit
        >>> tx = optkit.compressed_mean(optkit.compressors.top_k(0.5), optkit.feedback.ef14(), axis_name="workers")
        >>> params = jnp.zeros((3, 2))
        >>> axes = optkit.worker_axes(tx, params, axis_name="workers")
        >>> state = optkit.on_workers(tx.init, axis_name="workers", out_axes=axes, backend="vmap")(params)
        >>> update = optkit.on_workers(
        ...     tx.update, axis_name="workers", in_axes=(0, axes), out_axes=(0, axes), backend="vmap"
        ... )
        >>> _, state = update(jnp.array([[3.0, 1.0], [2.0, 4.0], [5.0, 0.5]]), state)
        >>> state.own.error.tolist()
        [[0.0, 1.0], [2.0, 0.0], [0.0, 0.5]]
        >>> optkit.resize_workers(state, axes, [0, None, 1]).own.error.tolist()
        [[2.0, 1.0], [0.0, 0.5]]
    """
    kept = {old: new for old, new in enumerate(old_to_new) if new is not None}
    count = max(kept.values(), default=-1) + 1 if workers is None else workers
    _check(old_to_new, kept, count)
    left = [old for old in range(len(old_to_new)) if old not in kept]
    old_rows, new_rows = list(kept), list(kept.values())

    def resize(axis, x, start, owed):
        if axis is None:
            return x
        _require_rows(x, len(old_to_new))
        rows = jnp.broadcast_to(jnp.zeros_like(x[0]) if start is None else start, (count, *x.shape[1:]))
        rows = rows.astype(x.dtype).at[jnp.array(new_rows, jnp.int32)].set(x[jnp.array(old_rows, jnp.int32)])
        return rows.at[0].add(jnp.sum(x[jnp.array(left, jnp.int32)], axis=0).astype(x.dtype)) if owed else rows

    leaves, structure = jax.tree.flatten(state)
    starts = [None] * len(leaves) if initial is None else structure.flatten_up_to(initial)
    each = zip(structure.flatten_up_to(axes), leaves, starts, _owed(state), strict=True)
    return structure.unflatten([resize(*leaf) for leaf in each])


def _owed(state: Any, owed: bool = False) -> list[bool]:
    """Tells for each leaf whether others count on it: whether it is in a field that its state lists as `owed`."""
    if owed:
        return [True] * len(jax.tree.leaves(state))
    fields = getattr(state, "_fields", None)
    if isinstance(state, tuple) and fields is not None:
        named = getattr(state, "owed", ())
        return [x for name, part in zip(fields, state, strict=True) for x in _owed(part, name in named)]
    # The children alone, which are in the order of the leaves.
    children = jax.tree.leaves(state, is_leaf=lambda x: x is not state)
    if len(children) == 1 and children[0] is state:
        return [False]
    return [x for child in children for x in _owed(child)]


def _check(old_to_new: Sequence[int | None], kept: dict[int, int], count: int) -> None:
    if len(set(kept.values())) < len(kept) or not all(0 <= row < count for row in kept.values()):
        raise ValueError(
            f"old_to_new must give each worker that stays a row of its own among {count} workers, got {old_to_new!r}"
        )
    if count < 1:
        raise ValueError(f"at least one worker must stay or be new, got old_to_new={old_to_new!r}")


def _require_rows(x: jax.Array, workers: int) -> None:
    if x.ndim == 0 or len(x) != workers:
        raise ValueError(
            f"old_to_new names {workers} workers, but a leaf of the state that differs between workers has shape"
            f" {x.shape}: give one entry for each old worker"
        )
