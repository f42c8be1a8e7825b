"""How the matrices of a leaf lie on a mesh with data-parallel, FSDP and tensor axes, inside `jax.shard_map`."""

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
        first: Whether columns are orthonormalized along the first axis of a matrix.
        along: Mesh axes over that side of a matrix.
        across: Mesh axes over the other side.
        batch: Mesh axes over each axis that counts matrices.
        length: Length of the other side of a whole matrix.
        rank: Number of columns of the factors.
        sends_factors: Whether data-parallel workers average factors instead of gradients.
        scale: The factor on the update.
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
    """Computes how the matrices of one leaf lie on the mesh.

    Args:
        view: How this device's shard is seen as matrices.
        spec: How the leaf is sharded.
        fsdp_axis: Name of the axis over which parameters are sharded to save memory, if there is one.
        tp_axis: Name of the axis over which layers are computed in parts, if there is one.
        rank_of: The function that `rank_rule` returns.

    Returns:
        The layout.

    Raises:
        ValueError: If a side is sharded in another way, or the rank is not a multiple of the number of devices that
            share its columns.
    """
    axes = [*axes_of(spec), *[()] * (len(view.shape) - len(spec))]

    def side(dims):
        found = tuple(axis for dim in dims for axis in axes[dim])
        if found and (len(dims) > 1 or found not in ((fsdp_axis,), (tp_axis,))):
            raise ValueError(
                "a side of a matrix may be sharded only as one axis, over fsdp_axis or tp_axis; got shards of shape "
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
        # The rank before it is rounded up decides, because `sharded_dion_specs` does not know the number of devices.
        sends_factors=sends_factors(rank_of(row_count, column_count), row_count, column_count),
        scale=math.sqrt(row_count / column_count),
    )


def own_part(x: jax.Array, axes: list[tuple[str, ...]]) -> jax.Array:
    """Returns this device's part of an array whose axes are spread over mesh axes."""
    for dim, names in enumerate(axes):
        if names:
            size = x.shape[dim] // jax.lax.axis_size(names)
            x = jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(names) * size, size, dim)
    return x


def axes_of(spec: PartitionSpec) -> list[tuple[str, ...]]:
    """Returns the mesh axes over which each axis of an array is sharded."""
    return [() if entry is None else (entry,) if isinstance(entry, str) else tuple(entry) for entry in spec]


def is_spec(node: Any) -> bool:
    """Returns whether a node of a tree is a `PartitionSpec`, which counts as a leaf there."""
    return isinstance(node, PartitionSpec)
