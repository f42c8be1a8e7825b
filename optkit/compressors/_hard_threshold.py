"""Hard threshold: keeps entries of at least a given magnitude.

Sahu et al., "Rethinking Gradient Sparsification as Total Error Minimization", 2021, arXiv:2108.00951. Arrays that are
sent have fixed sizes, so that the number of entries is bounded.
"""

import jax
import jax.numpy as jnp

from optkit.compressors._compressor import Compressor
from optkit.compressors._leafwise import SPARSE, Entries, Rule, decode_entries, leafwise, number_kept, require_few
from optkit.core.checks import check_range
from optkit.core.injection import refuse_arrays
from optkit.core.top_k import take, top_k
from optkit.method import Method, Paper

__all__ = ["hard_threshold"]


def hard_threshold_rule(threshold: jax.typing.ArrayLike, density: float) -> Rule:
    """Makes the rule of `hard_threshold`."""

    def encode(x, _):
        require_few(x.size, "hard_threshold")
        places = top_k(x, number_kept(x.size, density, round_up=True))
        values = take(x, places)
        # A NaN is not below the threshold.
        magnitudes = jnp.abs(values)
        return Entries(jnp.where(magnitudes < jnp.asarray(threshold, magnitudes.dtype), 0, values), places)

    return Rule(encode, decode_entries, **SPARSE)


def hard_threshold(threshold: jax.typing.ArrayLike, density: float | None = None) -> Compressor:
    """Keeps entries of at least a given magnitude, but at most a share of each leaf, and sets the others to zero.

    With error feedback an entry waits until enough of it has added up, so that no error stays larger than the
    threshold; `top_k` sends the largest entries even if all of them are tiny.

    Use it with error feedback when the size of what matters is known, and is the same from step to step. Avoid it to
    save bytes: arrays that are sent have fixed sizes, so that a message takes as much as with `top_k` of the same
    density, zeros included; and without error feedback, because entries below the threshold are lost.

    Args:
        threshold: The magnitude from which on entries are kept, at least 0. An array may be traced.
        density: Largest share of a leaf's entries that is kept, in (0, 1], rounded up. Default: None, which stands for
            0.01. If more entries reach the threshold, the largest ones are kept.

    Returns:
        A `Compressor`. It has no delta, because all of a leaf may lie below the threshold; what it changes in an entry
        is less than the threshold, where no more entries than that share reach it.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> compressor = hard_threshold(2.0, 0.75)
        >>> x = jnp.array([3.0, -1.0, 0.0, -4.0])
        >>> compressor.decompress(compressor.compress(x, None)[0], x).tolist()
        [3.0, 0.0, 0.0, -4.0]

    Reference:
        arXiv:2108.00951
    """
    refuse_arrays(density=density)
    check_range("threshold", threshold, 0.0)
    check_range("density", density, 0.0, 1.0, low_open=True)
    return leafwise(hard_threshold_rule(threshold, 0.01 if density is None else density))


METHODS = (
    Method(
        name="compressors.hard_threshold",
        factory=hard_threshold,
        kind="function",
        summary="Keeps entries of at least a given magnitude, but at most a share of each leaf.",
        paper=Paper(
            "Rethinking Gradient Sparsification as Total Error Minimization", "Sahu et al.", 2021, "2108.00951"
        ),
        also_known_as=("hard-threshold sparsifier", "threshold sparsification"),
    ),
)
