"""How the matrices of a leaf lie on a mesh of data-parallel, FSDP and tensor axes, inside `jax.shard_map`."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import PartitionSpec

from optkit.core.linalg.matrix_view import MatrixView
from optkit.orthonormalization._low_rank import sends_factors


class Layout(NamedTuple):
    """How the matrices of one leaf lie on the mesh.

    Attributes:
        first: whether columns are orthonormalized along the first axis of a matrix.
        along: mesh axes over that side of a matrix.
        across: mesh axes over the other side.
        batch: mesh axes over each axis that counts matrices.
        length: of the other side of a whole matrix.
        rank: columns of the factors.
        sends_factors: whether data-parallel workers average factors and not gradients.
        scale: what the update is multiplied by.
    """

    first: bool
    along: tuple[str, ...]
    across: tuple[str, ...]
    batch: tuple[tuple[str, ...], ...]
    length: int
    rank: int
    sends_factors: bool
    scale: float


def layout_on_mesh(
    view: MatrixView,
    spec: PartitionSpec,
    *,
    fsdp_axis: str | None,
    tp_axis: str | None,
    rank_of: Callable[..., int],
) -> Layout:
    """Finds how the matrices of one leaf lie on the mesh.

    Args:
        view: how this device's shard is seen as matrices.
        spec: how the leaf is sharded.
        fsdp_axis: the axis over which parameters are sharded for memory, if any.
        tp_axis: the axis over which layers are computed in parts, if any.
        rank_of: what `rank_rule` makes.

    Returns:
        The layout.

    Raises:
        ValueError: if a side is sharded otherwise, or the rank is no multiple of the devices that share its columns.
    """
    axes = [*axes_of(spec), *[()] * (len(view.shape) - len(spec))]

    def side(dims):
        found = tuple(axis for dim in dims for axis in axes[dim])
        if found and (len(dims) > 1 or found not in ((fsdp_axis,), (tp_axis,))):
            raise ValueError(
                "a side of a matrix may be sharded if it is one axis, over fsdp_axis or tp_axis; got shards of shape "
                f"{view.shape} whose axes {dims} are over {found}, with fsdp_axis={fsdp_axis!r} and tp_axis={tp_axis!r}"
            )
        return found

    rows, columns = side(view.rows), side(view.columns)
    row_count = view.row_count * jax.lax.axis_size(rows)
    column_count = view.column_count * jax.lax.axis_size(columns)
    along_rows = tp_axis in rows or fsdp_axis in columns if rows or columns else row_count >= column_count
    along, across = (rows, columns) if along_rows else (columns, rows)
    devices = jax.lax.axis_size(along)
    rank = rank_of(row_count, column_count, devices)
    if rank % devices:
        raise ValueError(
            f"the rank must be a multiple of the {devices} devices of tp_axis, got {rank} for matrices of {row_count} "
            f"rows and {column_count} columns: take another rank or rank_fraction"
        )
    return Layout(
        first=view.rows_first == along_rows,
        along=along,
        across=across,
        batch=tuple(axes[dim] for dim in view.batch),
        length=column_count if along_rows else row_count,
        rank=rank,
        # By the rank before it is rounded up, since `sharded_dion_specs` does not know of the devices.
        sends_factors=sends_factors(rank_of(row_count, column_count), row_count, column_count),
        scale=math.sqrt(row_count / column_count),
    )


def own_part(x: jax.Array, axes: list[tuple[str, ...]]) -> jax.Array:
    """Takes what is this device's where each axis of an array is spread over mesh axes."""
    for dim, names in enumerate(axes):
        if names:
            size = x.shape[dim] // jax.lax.axis_size(names)
            x = jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(names) * size, size, dim)
    return x


def axes_of(spec: PartitionSpec) -> list[tuple[str, ...]]:
    """The mesh axes over which each axis of an array is sharded."""
    return [() if entry is None else (entry,) if isinstance(entry, str) else tuple(entry) for entry in spec]


def is_spec(node: Any) -> bool:
    """Says whether a node of a tree is a `PartitionSpec`, which is a leaf there."""
    return isinstance(node, PartitionSpec)
