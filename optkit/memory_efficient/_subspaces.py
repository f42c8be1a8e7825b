"""The kinds of subspaces, with the names that the code of the papers gives them.

The code of subspace momentum (sn-sm) has two more. Its `"srht"`, a subsampled randomized Hadamard transform, transforms
only the axis that it does not sample, so that it is the same as choosing random rows, up to a constant; it is left out.
Its approximate decomposition samples by that transform; `"approximate_svd"` here is the usual one, by power iterations.
"""

from typing import Literal, get_args

from optkit.core.checks import check_count, check_option, check_range
from optkit.core.injection import refuse_arrays
from optkit.memory_efficient._bases import BasisKind, Side, basis_projector
from optkit.memory_efficient._coordinates import entries_projector, lines_projector
from optkit.memory_efficient._projector import Projector
from optkit.method import Method

__all__ = ["subspace_projector"]

Kind = Literal[BasisKind, "columns", "rows", "uniform", "topk", "randk"]
_BASES = get_args(BasisKind)


def subspace_projector(
    kind: Kind, *, rank: int | None = None, density: float | None = None, side: Side = "std"
) -> Projector:
    """Chooses a subspace of the entries of each matrix.

    The rows of a matrix are the outputs of a layer, and the columns its inputs; the `weight_dimension_numbers` of an
    optimizer name these axes of a leaf.

    Use "svd" when the subspace must capture as much of the gradient as possible. Avoid it when matrices are large or
    sharded, because the decomposition is slow and a sharded matrix is gathered for each new subspace. "approximate_svd"
    is many times faster for large matrices and low ranks, and never gathers a matrix. "columns", "rows", "uniform",
    "topk" and "randk" keep only indices and cost next to nothing, but "randk" gathers a sharded matrix in each step,
    and the other four gather the axis from which they choose. "random" and "randperm" gather no matrix if mesh axes are
    explicit.

    Args:
        kind: How the subspace is chosen. "svd": the gradient's largest singular vectors. "approximate_svd": an
            approximation of them by power iterations from a random sketch. "random": random orthonormal vectors.
            "randperm": random coordinates, stored as orthonormal vectors. "columns" or "rows": random columns or rows.
            "uniform": random rows, or random columns if the matrix is wide. "topk": the rows, or columns if the matrix
            is wide, in which the gradient has the largest norms. "randk": random entries.
        rank: Dimension of the subspace, or number of columns, rows or entries, at least 1. It is limited to the number
            that the matrix has; for singular vectors that is the length of the shorter axis. Default: None, which
            requires `density`.
        density: The same number as a share of the dimension, or of all columns, rows or entries, in [0, 1]. Default:
            None, which requires `rank`. The number is rounded for the first four kinds (a half to the even number), and
            rounded down for the others, as in FRUGAL's code. With `side="full"` it is a share of the shorter axis on
            both sides.
        side: On which side of the matrix the vectors of the first four kinds are: "std", "reverse_std", "left", "right"
            or "full". Default: "std", on the right (each row is projected), or on the left if the matrix is wide (each
            column is projected). "reverse_std" is the opposite, as in `optax.contrib.galore`. "full" has vectors on
            both sides.

    Returns:
        A `Projector`.

    Raises:
        ValueError: If an argument is outside its range, or if not exactly one of `rank` and `density` is given.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> projector = optkit.subspace_projector("topk", rank=1)
        >>> gradient = jnp.array([[1.0, 1.0], [3.0, 4.0], [0.0, 2.0]])
        >>> rows = projector.find(gradient, projector.start(gradient), jnp.array(0), None)
        >>> projector.down(rows, gradient).tolist()
        [[3.0, 4.0]]
    """
    refuse_arrays(rank=rank, density=density)
    check_option("kind", kind, Kind)
    check_option("side", side, Side)
    if (rank is None) == (density is None):
        raise ValueError(f"give one of rank and density, got rank={rank!r} and density={density!r}")
    if rank is not None:
        check_count("rank", rank)
    check_range("density", density, 0.0, 1.0)

    def number(whole: int) -> int:
        if density is None:
            return min(rank or 0, whole)
        return round(whole * density) if kind in _BASES else int(whole * density)

    if kind == "randk":
        return entries_projector(number)
    if kind in ("columns", "rows", "uniform", "topk"):
        return lines_projector(kind, number)
    return basis_projector(kind, side, number)


METHODS = (
    Method(
        name="subspace_projector",
        factory=subspace_projector,
        kind="function",
        summary="Chooses a subspace of each matrix: singular vectors, random vectors, rows, columns or entries.",
        also_known_as=("GaLoreProjector", "low-rank gradient projection"),
        parts=(Projector,),
    ),
)
