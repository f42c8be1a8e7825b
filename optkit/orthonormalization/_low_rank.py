"""What Dion on whole matrices and Dion on shards have in common: ranks, and what data-parallel workers average."""

import math
from collections.abc import Callable

from optkit.core.checks import check_count, check_range


def rank_rule(rank_fraction: float | None, rank: int | None, rank_multiple_of: int | None) -> Callable[..., int]:
    """Checks the arguments that set the rank, and returns the function that computes it for a matrix.

    Args:
        rank_fraction: The rank divided by the shorter side, in (0, 1], rounded up. Default: 0.25.
        rank: The rank itself, in place of `rank_fraction`.
        rank_multiple_of: Ranks from `rank_fraction` are rounded up to a multiple of this, at least 1. None: the number
            with which the function is called.

    Returns:
        A function of the rows and the columns of a matrix, and of the multiple used for None, which is 1 by default.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> rank_of = rank_rule(0.25, None, None)
        >>> rank_of(20, 30), rank_of(30, 20, 2), rank_rule(None, 30, None)(20, 20)
        (5, 6, 20)
    """
    fraction = 0.25 if rank_fraction is None else rank_fraction
    check_range("rank_fraction", fraction, 0.0, 1.0, low_open=True)
    if rank_multiple_of is not None:
        check_count("rank_multiple_of", rank_multiple_of)
    if rank is not None:
        check_count("rank", rank)

    def rank_of(rows: int, columns: int, multiple: int = 1) -> int:
        shorter = min(rows, columns)
        multiple = multiple if rank_multiple_of is None else rank_multiple_of
        return min(rank or multiple * math.ceil(fraction * shorter / multiple), shorter)

    return rank_of


def sends_factors(rank: int, rows: int, columns: int) -> bool:
    """Returns whether two factors are fewer numbers than their matrix, so that workers average them in its place.

    Example:
        >>> sends_factors(1, 8, 4), sends_factors(3, 8, 4)
        (True, False)
    """
    return rank * (rows + columns) < rows * columns
