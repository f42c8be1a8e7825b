"""How a leaf is viewed as matrices: which axes are rows, which are columns, and which count separate matrices."""

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
        shape: The shape of the leaf.
        rows: The axes over outputs.
        columns: The axes over inputs, which a layer sums over.
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
        """Number of rows of a matrix, its fan-out."""
        return math.prod(self.shape[axis] for axis in self.rows)

    @property
    def column_count(self) -> int:
        """Number of columns of a matrix, its fan-in."""
        return math.prod(self.shape[axis] for axis in self.columns)

    @property
    def rows_first(self) -> bool:
        """Whether rows come before columns in the leaf, and therefore in the result of `to_matrices`."""
        return self.rows < self.columns


def matrix_view(shape: Sequence[int], numbers: MuonDimensionNumbers | None = None, leaf: str = "a leaf") -> MatrixView:
    """Returns how a leaf of a given shape is viewed as matrices.

    Args:
        shape: The shape of the leaf.
        numbers: The input and output axes of the leaf. Default: the last axis is over outputs and the one before over
            inputs, as in kernels of Flax, and all others count separate matrices. For weights stored as in PyTorch,
            outputs first, it is `MuonDimensionNumbers(reduction_axis=-1, output_axis=-2)`.
        leaf: How messages name the leaf. Default: "a leaf".

    Returns:
        The view.

    Raises:
        ValueError: If there are less than two axes, or one is named twice or does not exist.

    Example:
        >>> view = matrix_view((3, 3, 16, 32), MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3))
        >>> view.row_count, view.column_count, view.batch
        (32, 144, ())
    """
    rank = len(shape)
    if rank < 2:
        raise ValueError(f"{leaf} of shape {tuple(shape)} is not a matrix, which has at least two axes: leave it out")
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
    """Returns how each leaf of a tree is viewed as matrices.

    Args:
        tree: Arrays.
        weight_dimension_numbers: Which axes of each matrix are inputs and which are outputs, as in
            `optax.contrib.muon`. A single `MuonDimensionNumbers` for all leaves; a tree of them, which may be a prefix
            of `tree`, with None for leaves that are not matrices; or a function that makes it from `tree`. Default: all
            leaves of two axes are matrices, like kernels of Flax's dense layers, and all others are not.

    Returns:
        A tree of `MatrixView`, with None for leaves that are not matrices. A leaf without entries never is one.

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
    """Returns the path of a leaf as words, such as "layer/kernel", without the boxes in which Flax NNX stores arrays.

    Args:
        path: Keys, as `jax.tree.map_with_path` passes them.

    Returns:
        The names, separated by slashes.

    Example:
        >>> [(path, _)] = jax.tree.leaves_with_path({"layer": {"kernel": 1.0}})
        >>> leaf_name(path)
        'layer/kernel'
    """
    boxed = path and path[-1] == GetAttrKey("value")
    return keystr(path[:-1] if boxed else path, simple=True, separator="/")


def require_views(tree: Any, weight_dimension_numbers: Any, method: str) -> Any:
    """Returns how each leaf is viewed as matrices, for methods that work on matrices only.

    Args:
        tree: Arrays.
        weight_dimension_numbers: See `matrix_views`. Default: all leaves are matrices in their last two axes.
        method: The public name of the transformation.

    Returns:
        A tree of `MatrixView`, with None for leaves without entries.

    Raises:
        ValueError: If a leaf is not a matrix.
    """
    given = DENSE_KERNELS if weight_dimension_numbers is None else weight_dimension_numbers
    numbers = resolve("weight_dimension_numbers", given, tree)

    def view(path, x, numbers):
        leaf = f"{method}: the leaf {leaf_name(path)!r}"
        if not x.size:
            return None
        if numbers is None:
            raise ValueError(
                f"{leaf} of shape {x.shape} is not a matrix by weight_dimension_numbers: leave it out by optax.masked"
            )
        return matrix_view(x.shape, numbers, leaf)

    return jax.tree.map_with_path(view, tree, numbers)


def to_matrices(x: jax.Array, view: MatrixView | None) -> Any:
    """Returns a leaf as matrices: one leading axis for each of `view.batch`, and two more axes.

    Rows come before columns if they do in the leaf (`view.rows_first`), so usual kernels stay as they are. On explicit
    mesh axes they also stay sharded. If rows or columns are several axes, all of these but the first are gathered,
    because their blocks would be scattered over the matrix.

    Args:
        x: The leaf.
        view: How it is viewed.

    Returns:
        Its matrices, or None without a view.
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
        like: The leaf, for its sharding and dtype.
        view: How the leaf is viewed.
        matrices: The result of `to_matrices`, or anything of the same shape.

    Returns:
        The leaf, or `like` without a view.
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
    """Returns the axes of a leaf from which each axis of its matrices is made."""
    sides = (view.rows, view.columns) if view.rows_first else (view.columns, view.rows)
    return [*((axis,) for axis in view.batch), *sides]


def _shardings_apart_and_joined(
    view: MatrixView, x: jax.Array
) -> tuple[NamedSharding, NamedSharding] | tuple[None, None]:
    """Returns shardings of a leaf's axes in matrix order, before and after some are joined; None off explicit axes."""
    sharding = jax.typeof(x).sharding
    if all(axis is None for axis in sharding.spec):
        return None, None
    groups = _in_order(view)
    firsts = [next((axis for axis in group if view.shape[axis] > 1), group[0]) for group in groups]
    apart = [sharding.spec[axis] if axis in firsts else None for group in groups for axis in group]
    joined = [sharding.spec[axis] for axis in firsts]
    return NamedSharding(sharding.mesh, PartitionSpec(*apart)), NamedSharding(sharding.mesh, PartitionSpec(*joined))
