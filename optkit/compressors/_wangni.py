"""Random sparsification, with the probabilities that make the variance smallest.

Wangni et al., "Gradient Sparsification for Communication-Efficient Distributed Optimization", 2017, arXiv:1710.09854.
"""

import jax
import jax.numpy as jnp

from optkit.compressors._compressor import Compressor
from optkit.compressors._leafwise import Rule, as_it_came, draw_uniform, leafwise, number_kept, shares_of_largest
from optkit.core.checks import check_range
from optkit.core.injection import refuse_arrays
from optkit.core.precision import widen
from optkit.core.types import AxisName, Key
from optkit.method import Method, Paper

__all__ = ["wangni_sparsify"]


def wangni_rule(density: float) -> Rule:
    """Makes the rule of `wangni_sparsify`; it draws one uniform number for each entry."""
    check_range("density", density, 0.0, 1.0, low_open=True)

    def encode(x, uniform):
        x = widen(x)
        chance = keeping_chances(x, number_kept(x.size, density, round_up=False))
        value = jnp.where(chance > 1e-6, x / jnp.where(chance > 0, chance, 1), x)
        # If an entry is not finite, there are no probabilities.
        return jnp.where(jnp.all(jnp.isfinite(x)), jnp.where(uniform < chance, value, 0), jnp.nan)

    return Rule(encode, as_it_came, draw=draw_uniform)


def keeping_chances(x: jax.Array, number: int) -> jax.Array:
    """Returns the probabilities that keep about `number` entries with the least variance.

    They are proportional to the magnitudes, except for those that would exceed one. What these leave over goes to the
    other entries, in four rounds.
    """
    _, magnitude = shares_of_largest(jnp.abs(x))
    total = jnp.sum(magnitude)
    chance = jnp.minimum(number * magnitude / jnp.where(total > 0, total, 1), 1)
    growing = jnp.array(True)
    for _ in range(4):
        below = chance < 1
        rest = jnp.sum(jnp.where(below, chance, 0))
        factor = (number - x.size + jnp.sum(below, dtype=x.dtype)) / jnp.where(rest > 0, rest, 1)
        growing &= (rest > 0) & (factor > 1)
        chance = jnp.where(growing & below, jnp.minimum(factor * chance, 1), chance)
    return chance


def wangni_sparsify(density: float = 0.01, *, key: Key, axis_name: AxisName | None = None) -> Compressor:
    """Keeps entries at random, large ones more often, and divides them by their probability so that it is unbiased.

    The rule, where p is proportional to the magnitude of an entry, at most 1, and sums to about k over the leaf::

        C(x) = x / p    (with probability p, otherwise 0)

    Use it only in simulations, when a method needs an unbiased compressor that keeps large entries. Avoid it to save
    bytes: the number of kept entries varies, but arrays that are sent have fixed sizes, so that it sends everything,
    zeros included. An entry with a probability of at most one in a million is not divided by it, as in the original
    code.

    Args:
        density: Mean share of a leaf's entries that are kept, in (0, 1]. Default: 0.01. The mean is at least one entry.
        key: Seed of the random draws, an integer or a JAX key.
        axis_name: Name of the axis over workers. With it, each worker draws for itself. Default: None, where all
            workers draw the same.

    Returns:
        A `Compressor`. It has no omega, because none is known for the four rounds of the paper's iteration.

    Raises:
        ValueError: If `density` is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> compressor = wangni_sparsify(0.5, key=0)
        >>> x = jnp.array([4.0, 0.0, 0.0, 4.0])
        >>> compressor.decompress(compressor.compress(x, compressor.init(x))[0], x).tolist()
        [4.0, 0.0, 0.0, 4.0]
    """
    refuse_arrays(density=density)
    return leafwise(wangni_rule(density), key, axis_name, real="wangni_sparsify")


_SPARSIFICATION = Paper(
    "Gradient Sparsification for Communication-Efficient Distributed Optimization", "Wangni et al.", 2017, "1710.09854"
)

METHODS = (
    Method(
        name="compressors.wangni_sparsify",
        factory=wangni_sparsify,
        kind="function",
        summary="Keeps entries at random, large ones more often, and scales them so that it is unbiased.",
        paper=_SPARSIFICATION,
        also_known_as=("gradient sparsification", "Wangni sparsification"),
    ),
)
