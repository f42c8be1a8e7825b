"""Top-k: the entries of largest magnitude of each leaf."""

from optkit.compressors._compressor import Compressor
from optkit.compressors._leafwise import Entries, Rule, decode_entries, leafwise, number_kept, require_few
from optkit.core.checks import check_range
from optkit.core.injection import refuse_arrays
from optkit.core.top_k import take
from optkit.core.top_k import top_k as find_top_k
from optkit.method import Method

__all__ = ["top_k"]


def top_k_rule(density: float, *, round_up: bool) -> Rule:
    """Makes the rule of `top_k`."""

    def number(size):
        return number_kept(size, density, round_up=round_up)

    def encode(x, _):
        require_few(x.size, "top_k")
        places = find_top_k(x, number(x.size))
        return Entries(take(x, places), places)

    return Rule(encode, decode_entries, delta=lambda size: number(size) / size)


def top_k(density: float = 0.01, *, round_up: bool = True) -> Compressor:
    """Keeps the entries of largest magnitude of each leaf, and forgets the others.

    On the wire an entry kept is its value and a place of 4 bytes. Of equal entries the first ones are kept. Do not take
    it without error feedback, or a method with its own: what it forgets has a bias. `global_top_k` takes the largest of
    all leaves together.

    Args:
        density: share of a leaf's entries that are kept, in (0, 1]; default 0.01. At least one of each leaf is.
        round_up: rounds their number up (default), as Deep Gradient Compression does, not down.

    Returns:
        A `Compressor` with delta k/d for k of d entries.

    Raises:
        ValueError: if `density` is out of its range.

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
        summary="Keeps the entries of largest magnitude of each leaf, and forgets the others.",
        also_known_as=("Top-k", "TopK", "top-k sparsification"),
    ),
)
