"""Top-k: keeps the entries of largest magnitude of each leaf."""

from collections.abc import Callable

from optkit.compressors._compressor import Compressor
from optkit.compressors._leafwise import SPARSE, Entries, Rule, decode_entries, leafwise, number_kept, require_few
from optkit.core.checks import check_range
from optkit.core.injection import refuse_arrays
from optkit.core.top_k import take
from optkit.core.top_k import top_k as find_top_k
from optkit.method import Method

__all__ = ["top_k"]


def top_k_rule(density: float, *, round_up: bool) -> Rule:
    """Makes the rule of `top_k`."""
    return largest_rule(lambda size: number_kept(size, density, round_up=round_up))


def largest_rule(number: Callable[[int], int]) -> Rule:
    """Makes the rule that keeps the largest entries, from how many of a vector of a given size are kept."""

    def encode(x, _):
        require_few(x.size, "top_k")
        places = find_top_k(x, number(x.size))
        return Entries(take(x, places), places)

    return Rule(encode, decode_entries, delta=lambda size: number(size) / size, **SPARSE)


def top_k(density: float = 0.01, *, round_up: bool = True) -> Compressor:
    """Keeps the entries of largest magnitude of each leaf, and sets the others to zero.

    The values stay as they are. Of entries of equal magnitude, the first ones are kept.

    Use it with error feedback, or in a method that has its own, when few entries carry most of the gradient. Avoid it
    without error feedback, because it is biased: what it drops is lost. A kept entry takes the bytes of its value and 4
    bytes for its place. `global_top_k` takes the largest entries of all leaves together.

    Args:
        density: Share of a leaf's entries that are kept, in (0, 1]. Default: 0.01. At least one entry of each leaf is
            kept.
        round_up: Whether the number of kept entries is rounded up, as in Deep Gradient Compression, and not down.
            Default: True.

    Returns:
        A `Compressor` with delta k/d, if k of d entries are kept.

    Raises:
        ValueError: If `density` is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> compressor = top_k(0.5)
        >>> entries, _ = compressor.compress(jnp.array([3.0, -1.0, 0.0, -4.0]), None)
        >>> entries.values.tolist(), entries.places.tolist()
        ([-4.0, 3.0], [3, 0])
    """
    refuse_arrays(density=density)
    check_range("density", density, 0.0, 1.0, low_open=True)
    return leafwise(top_k_rule(density, round_up=round_up))


METHODS = (
    Method(
        name="compressors.top_k",
        factory=top_k,
        kind="function",
        summary="Keeps the entries of largest magnitude of each leaf, and sets the others to zero.",
        also_known_as=("Top-k", "TopK", "top-k sparsification"),
    ),
)
