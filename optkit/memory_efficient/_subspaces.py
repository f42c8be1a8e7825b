"""The kinds of subspaces, by the names that the papers' code gives them.

The code of subspace momentum (sn-sm) has two more. Its `"srht"`, a subsampled randomized Hadamard transform, transforms
the axis that it does not sample, so that nothing is left of it but random rows times a constant; it is left out. Its
approximate decomposition samples by that transform; `"approximate_svd"` here is the usual one by power iterations.
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
    """Chooses a subspace of each matrix's entries.

    Rows of a matrix are a layer's outputs and columns its inputs; optimizers say by `weight_dimension_numbers` which
    axes of a leaf these are. Sharded matrices are gathered by `"svd"` for every new subspace and by `"randk"` in every
    step; `"approximate_svd"` never gathers any, and neither do the others on explicit mesh axes, but for the axis that
    `"columns"`, `"rows"`, `"uniform"` and `"topk"` choose from.

    Args:
        kind: `"svd"`, along the gradient's largest singular vectors; `"approximate_svd"`, along what power iterations
            from a random sketch make of them, many times as fast for large matrices and low ranks; `"random"`, along
            random orthonormal vectors; `"randperm"`, along random coordinates, as such vectors; `"columns"` or
            `"rows"`, random ones; `"uniform"`, random rows of a matrix that is not wide, random columns otherwise;
            `"topk"`, of the same those whose gradient has the largest norms; `"randk"`, random entries.
        rank: dimension of the subspace, number of columns, rows or entries, at least 1; at most all, and at most the
            number of singular vectors, that of the shorter axis.
        density: in place of `rank`, the share of that dimension or number, in [0, 1]; rounded for the first four
            kinds, to even where in doubt, and rounded down for the others, as in FRUGAL's code. With `side="full"` it
            is the share of the shorter axis on both sides.
        side: for the first four kinds, on which side of the matrix the vectors are: `"std"` (default), for rows
            (`"right"`) unless the matrix is wide, otherwise for columns (`"left"`); `"reverse_std"`, the other way
            round, as in `optax.contrib.galore`; or `"full"`, both.

    Returns:
        A `Projector`.

    Raises:
        ValueError: if an argument is out of its range, or not exactly one of `rank` and `density` is given.

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
