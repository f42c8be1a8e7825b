"""How a leaf is seen as matrices: which axes are rows, which columns, and which count separate matrices."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jax.tree_util import GetAttrKey, keystr
from optax.contrib import MuonDimensionNumbers

from optkit.core.linalg.explicit_axes import shard_like
from optkit.core.trees import resolve

DENSE_KERNELS = MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)


@dataclasses.dataclass(frozen=True)
class MatrixView:
    """The axes of one leaf. Rows are a layer's outputs and columns its inputs, as in the papers' `y = W x`.

    Attributes:
        shape: the leaf's shape.
        rows: the axes over outputs.
        columns: the axes over inputs, that a layer sums over.
    """

    shape: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @property
    def batch(self) -> tuple[int, ...]:
        """The axes over separate matrices."""
        return tuple(axis for axis in range(len(self.shape)) if axis not in (*self.rows, *self.columns))

    @property
    def row_count(self) -> int:
        """Rows of a matrix, fan-out."""
        return math.prod(self.shape[axis] for axis in self.rows)

    @property
    def column_count(self) -> int:
        """Columns of a matrix, fan-in."""
        return math.prod(self.shape[axis] for axis in self.columns)

    @property
    def rows_first(self) -> bool:
        """Whether rows come before columns in the leaf, and therefore in what `to_matrices` gives."""
        return self.rows < self.columns


def matrix_view(shape: Sequence[int], numbers: MuonDimensionNumbers | None = None, leaf: str = "a leaf") -> MatrixView:
    """Says how a leaf of some shape is seen as matrices.

    Args:
        shape: the leaf's.
        numbers: its input and output axes. By default the last axis is over outputs and the one before over inputs, as
            in kernels of Flax; all others count separate matrices. For weights that are stored as PyTorch does, outputs
            first, it is `MuonDimensionNumbers(reduction_axis=-1, output_axis=-2)`.
        leaf: what the leaf is called in messages.

    Returns:
        The view.

    Raises:
        ValueError: if there are less than two axes, or one is named twice or does not exist.

    Example:
        >>> view = matrix_view((3, 3, 16, 32), MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3))
        >>> view.row_count, view.column_count, view.batch
        (32, 144, ())
    """
    rank = len(shape)
    if rank < 2:
        raise ValueError(f"{leaf} of shape {tuple(shape)} is no matrix, which has at least two axes: leave it out")
    numbers = DENSE_KERNELS if numbers is None else numbers
    columns, rows = (
        tuple(sorted(axis % rank for axis in ((axes,) if isinstance(axes, int) else axes) if -rank <= axis < rank))
        for axes in (numbers.reduction_axis, numbers.output_axis)
    )
    named = sum(1 if isinstance(axes, int) else len(axes) for axes in numbers)
    if not rows or not columns or len({*rows, *columns}) != named:
        raise ValueError(f"{leaf} of shape {tuple(shape)} must have different input and output axes, got {numbers}")
    return MatrixView(tuple(shape), rows, columns)


def matrix_views(tree: Any, weight_dimension_numbers: Any = None) -> Any:
    """Says how each leaf of a tree is seen as matrices.

    Args:
        tree: arrays.
        weight_dimension_numbers: as Optax's Muon takes it: one `MuonDimensionNumbers` for all leaves; a tree of them,
            a prefix of `tree`, with None for leaves that are no matrices; or a function that makes it from `tree`. By
            default all leaves of two axes are matrices, kernels of Flax's dense layers, and others are not.

    Returns:
        A tree of `MatrixView`, None where a leaf is no matrix. A leaf without entries never is.

    Example:
        >>> import jax.numpy as jnp
        >>> views = matrix_views({"kernel": jnp.ones((4, 8)), "bias": jnp.ones(8)})
        >>> views["kernel"].row_count, views["bias"]
        (8, None)
    """
    if weight_dimension_numbers is None:
        return jax.tree.map(lambda x: matrix_view(x.shape) if x.ndim == 2 and x.size else None, tree)
    numbers = resolve("weight_dimension_numbers", weight_dimension_numbers, tree)

    def view(path, x, numbers):
        return None if numbers is None or not x.size else matrix_view(x.shape, numbers, f"the leaf {leaf_name(path)!r}")

    return jax.tree.map_with_path(view, tree, numbers)


def leaf_name(path: tuple[Any, ...]) -> str:
    """Gives the path of a leaf as words, as in `"layer/kernel"`, without the boxes in which Flax NNX keeps arrays.

    Args:
        path: keys, as `jax.tree.map_with_path` hands them on.

    Returns:
        The names between slashes.

    Example:
        >>> [(path, _)] = jax.tree.leaves_with_path({"layer": {"kernel": 1.0}})
        >>> leaf_name(path)
        'layer/kernel'
    """
    boxed = path and path[-1] == GetAttrKey("value")
    return keystr(path[:-1] if boxed else path, simple=True, separator="/")


def require_views(tree: Any, weight_dimension_numbers: Any, method: str) -> Any:
    """Says how each leaf is seen as matrices, for methods that work on nothing else.

    Args:
        tree: arrays.
        weight_dimension_numbers: see `matrix_views`, but by default all leaves are matrices by their last two axes.
        method: the public name of the transformation.

    Returns:
        A tree of `MatrixView`, None for leaves without entries.

    Raises:
        ValueError: if a leaf is no matrix.
    """
    given = DENSE_KERNELS if weight_dimension_numbers is None else weight_dimension_numbers
    numbers = resolve("weight_dimension_numbers", given, tree)

    def view(path, x, numbers):
        leaf = f"{method}: the leaf {leaf_name(path)!r}"
        if not x.size:
            return None
        if numbers is None:
            raise ValueError(
                f"{leaf} of shape {x.shape} is no matrix by weight_dimension_numbers: leave it out by optax.masked"
            )
        return matrix_view(x.shape, numbers, leaf)

    return jax.tree.map_with_path(view, tree, numbers)


def to_matrices(x: jax.Array, view: MatrixView | None) -> Any:
    """Gives a leaf as matrices: a leading axis for each of `view.batch`, and two more.

    Rows come before columns where they do in the leaf (`view.rows_first`), so that usual kernels stay as they are. On
    explicit mesh axes they stay sharded too. Where rows or columns are several axes, all but the first of these are
    gathered: their blocks would lie scattered over the matrix.

    Args:
        x: the leaf.
        view: how it is seen.

    Returns:
        Its matrices; None without a view.
    """
    if view is None:
        return None
    apart, joined = _shardings_apart_and_joined(view, x)
    ordered = x.transpose([axis for axes in _in_order(view) for axis in axes])
    ordered = ordered if apart is None else jax.sharding.reshard(ordered, apart)
    sizes = [math.prod(view.shape[axis] for axis in axes) for axes in _in_order(view)]
    return jnp.reshape(ordered, sizes, out_sharding=joined)


def from_matrices(like: jax.Array, view: MatrixView | None, matrices: Any) -> jax.Array:
    """Undoes `to_matrices`.

    Args:
        like: the leaf, for its sharding and dtype.
        view: how the leaf is seen.
        matrices: what `to_matrices` gave, or something shaped alike.

    Returns:
        The leaf; `like` without a view.
    """
    if view is None:
        return like
    apart, joined = _shardings_apart_and_joined(view, like)
    matrices = matrices if joined is None else jax.sharding.reshard(matrices, joined)
    order = [axis for axes in _in_order(view) for axis in axes]
    leaf = jnp.reshape(matrices, [view.shape[axis] for axis in order], out_sharding=apart)
    leaf = leaf.transpose([order.index(axis) for axis in range(len(order))])
    return shard_like(leaf.astype(like.dtype), like)


def _in_order(view: MatrixView) -> list[tuple[int, ...]]:
    """The axes of a leaf that each axis of its matrices is made of."""
    sides = (view.rows, view.columns) if view.rows_first else (view.columns, view.rows)
    return [*((axis,) for axis in view.batch), *sides]


def _shardings_apart_and_joined(
    view: MatrixView, x: jax.Array
) -> tuple[NamedSharding, NamedSharding] | tuple[None, None]:
    """How a leaf's axes in matrix order are sharded before and after some are joined; None off explicit mesh axes."""
    sharding = jax.typeof(x).sharding
    if all(axis is None for axis in sharding.spec):
        return None, None
    groups = _in_order(view)
    firsts = [next((axis for axis in group if view.shape[axis] > 1), group[0]) for group in groups]
    apart = [sharding.spec[axis] if axis in firsts else None for group in groups for axis in group]
    joined = [sharding.spec[axis] for axis in firsts]
    return NamedSharding(sharding.mesh, PartitionSpec(*apart)), NamedSharding(sharding.mesh, PartitionSpec(*joined))
