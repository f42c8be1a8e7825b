"""Rand-k: keeps entries that are drawn at random."""

import jax
import jax.numpy as jnp

from optkit.compressors._compressor import Compressor, Sums
from optkit.compressors._leafwise import SPARSE, Entries, Rule, decode_entries, leafwise, number_kept, require_few
from optkit.core.checks import check_range
from optkit.core.injection import refuse_arrays
from optkit.core.precision import widen
from optkit.core.top_k import take
from optkit.core.types import AxisName, Key
from optkit.method import Method

__all__ = ["rand_k"]


def rand_k_rule(density: float, *, round_up: bool, shared: bool) -> Rule:
    """Makes the rule of `rand_k`; its draw is a permutation, whose first places are kept.

    Args:
        density: See `rand_k`.
        round_up: See `rand_k`.
        shared: Whether all workers keep the same places, so that values can be added up.

    Returns:
        The rule.
    """

    def number(size):
        return number_kept(size, density, round_up=round_up)

    def encode(x, permutation):
        places = permutation[: number(x.size)].astype(jnp.int32)
        return Entries((take(widen(x), places) * (x.size / max(places.size, 1))).astype(x.dtype), places)

    def draw(key, size, _):
        require_few(size, "rand_k")
        return jax.random.permutation(key, size)

    def total(values, own, size, dtype):
        return decode_entries(own._replace(values=values), size, dtype)

    return Rule(
        encode,
        decode_entries,
        omega=lambda size: size / number(size) - 1,
        draw=draw,
        sums=Sums(lambda sent, _: widen(sent.values), total) if shared else None,
        **SPARSE,
    )


def rand_k(density: float = 0.01, *, key: Key, axis_name: AxisName | None = None, round_up: bool = True) -> Compressor:
    """Keeps k of the d entries of each leaf, drawn at random, and multiplies them by d/k so that it is unbiased.

    Use it when a method needs an unbiased compressor and the places of large entries do not matter. Avoid it when few
    entries are large, because it is then far noisier than `top_k` with the same number of bytes. A kept entry takes the
    bytes of its value and 4 bytes for its place.

    Args:
        density: Share of a leaf's entries that are kept, in (0, 1]. Default: 0.01. At least one entry of each leaf is
            kept.
        key: Seed of the random draws, an integer or a JAX key.
        axis_name: Name of the axis over workers. With it, each worker draws for itself. Default: None, where all
            workers draw the same.
        round_up: Whether the number of kept entries is rounded up, and not down. Default: True.

    Returns:
        A `Compressor` with omega d/k - 1, if k of d entries are kept.

    Raises:
        ValueError: If `density` is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> compressor = rand_k(0.5, key=0)
        >>> x = jnp.ones(4)
        >>> entries, state = compressor.compress(x, compressor.init(x))
        >>> entries.values.tolist()
        [2.0, 2.0]
    """
    refuse_arrays(density=density)
    check_range("density", density, 0.0, 1.0, low_open=True)
    return leafwise(rand_k_rule(density, round_up=round_up, shared=axis_name is None), key, axis_name)


METHODS = (
    Method(
        name="compressors.rand_k",
        factory=rand_k,
        kind="function",
        summary="Keeps entries that are drawn at random, and scales them so that it is unbiased.",
        also_known_as=("Rand-k", "RandK", "random sparsification"),
    ),
)
