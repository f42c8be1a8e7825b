"""The compressor that does not compress."""

from optkit.compressors._compressor import Compressor, Sums
from optkit.compressors._leafwise import Rule, as_it_came, leafwise
from optkit.core.precision import widen
from optkit.method import Method

__all__ = ["identity"]


def identity() -> Compressor:
    """Leaves every tree as it is.

    Use it to compare a method that compresses with the same method without compression.

    Returns:
        A `Compressor` with delta 1 and omega 0.

    Example:
        >>> import jax.numpy as jnp
        >>> compressor = identity()
        >>> compressor.compress(jnp.ones(2), None)[0].tolist()
        [1.0, 1.0]
    """
    sums = Sums(lambda sent, _: widen(sent), lambda summed, _, size, dtype: as_it_came(summed, size, dtype))
    return leafwise(Rule(lambda x, _: x, as_it_came, lambda _: 1.0, lambda _: 0.0, sums=sums))


METHODS = (
    Method(
        name="compressors.identity",
        factory=identity,
        kind="function",
        summary="Leaves every tree as it is, without compression.",
    ),
)
