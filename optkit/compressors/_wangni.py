"""Sparsification by lot, with the probabilities of least variance.

Wangni et al., "Gradient Sparsification for Communication-Efficient Distributed Optimization", 2017, arXiv:1710.09854.
"""

import jax
import jax.numpy as jnp

from optkit.compressors._compressor import Compressor
from optkit.compressors._leafwise import Rule, as_it_came, draw_uniform, leafwise, number_kept
from optkit.core.checks import check_range
from optkit.core.injection import refuse_arrays
from optkit.core.precision import widen
from optkit.core.types import AxisName, Key
from optkit.method import Method, Paper

__all__ = ["wangni_sparsify"]


def wangni_rule(density: float) -> Rule:
    """Makes the rule of `wangni_sparsify`; its draws are uniform, one for each entry."""
    check_range("density", density, 0.0, 1.0, low_open=True)

    def encode(x, uniform):
        x = widen(x)
        chance = keeping_chances(x, number_kept(x.size, density, round_up=False))
        value = jnp.where(chance > 1e-6, x / jnp.where(chance > 0, chance, 1), x)
        # With an entry that is not finite there are no chances.
        return jnp.where(jnp.all(jnp.isfinite(x)), jnp.where(uniform < chance, value, 0), jnp.nan)

    return Rule(encode, as_it_came, draw=draw_uniform)


def keeping_chances(x: jax.Array, number: int) -> jax.Array:
    """Gives the probabilities to keep entries, so that about a number of them are kept with the least variance.

    They are in proportion to magnitudes, but for those that would exceed one. What these cannot use goes to the others,
    in four rounds.
    """
    magnitude = jnp.abs(x)
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
    """Keeps entries by lot, large ones more often, over the probability to be kept: mean and number are as wanted.

    For simulation only: the number of entries kept varies, and arrays on the wire do not, so that it sends everything,
    zeros too. An entry kept with a chance of at most one in a million is not scaled, as in the original.

    Args:
        density: share of a leaf's entries that are kept in the mean, in (0, 1]; default 0.01. At least one is.
        key: an integer or a JAX key.
        axis_name: the axis over workers, each of which then draws for itself; None (default) for equal draws.

    Returns:
        A `Compressor`; no constant is known of the four rounds of the paper's iteration.

    Raises:
        ValueError: if `density` is out of its range.

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
        summary="Keeps entries by lot, large ones more often, so that the mean over draws is the vector.",
        paper=_SPARSIFICATION,
        also_known_as=("gradient sparsification", "Wangni sparsification"),
    ),
)
