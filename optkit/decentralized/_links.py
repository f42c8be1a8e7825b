"""Links: which messages arrive in a step, for `mix` and all that mixes."""

import jax
import jax.numpy as jnp

from optkit.core.checks import check_integer, check_range
from optkit.method import Method

__all__ = ["links_among", "lossy_links"]


def links_among(active: jax.Array) -> jax.Array:
    """Gives the links of a step in which some workers are silent.

    Args:
        active: shape (workers,), booleans: whether a worker takes part.

    Returns:
        Booleans of shape (workers, workers), the `links` of `mix`: workers that are silent neither hear nor are heard,
        and keep their values; the mean over the others stays on symmetric topologies.

    Example:
        >>> links_among(jnp.array([True, False, True])).astype(int).tolist()
        [[1, 0, 1], [0, 0, 0], [1, 0, 1]]
    """
    return active[:, None] & active[None]


def lossy_links(key: jax.Array, size: int, probability: jax.typing.ArrayLike) -> jax.Array:
    """Draws links of which each is lost with some probability, in both directions at once.

    Args:
        key: a JAX key that is equal on all workers; another one for each step.
        size: the number of workers, at least 1.
        probability: of a link to be lost, in [0, 1].

    Returns:
        Symmetric booleans of shape (workers, workers), the `links` of `mix`; a worker always hears itself.

    Raises:
        ValueError: if `size` or `probability` is out of its range.

    Example:
        >>> lossy_links(jax.random.key(0), 3, 1.0).astype(int).tolist()
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    """
    check_integer("size", size)
    check_range("probability", probability, 0.0, 1.0)
    lost = jnp.triu(jax.random.bernoulli(key, probability, (size, size)), 1)
    return ~(lost | lost.T)


METHODS = (
    Method(
        name="lossy_links",
        factory=lossy_links,
        kind="function",
        summary="Draws which messages are lost in a step, in both directions at once.",
        also_known_as=("link failures", "unreliable links"),
    ),
    Method(
        name="links_among",
        factory=links_among,
        kind="function",
        summary="The links of a step in which some workers are silent.",
        also_known_as=("partial participation",),
    ),
)
