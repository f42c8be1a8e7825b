"""Links: which messages arrive in a step. They are an argument of `mix` and of all methods that mix."""

import jax
import jax.numpy as jnp

from optkit.core.checks import check_integer, check_range
from optkit.method import Method

__all__ = ["links_among", "lossy_links"]


def links_among(active: jax.Array) -> jax.Array:
    """Makes the links of a step in which only the active workers exchange messages.

    Use it when some workers do not take part in a step, for example because they failed or were not sampled.

    Args:
        active: Which workers take part, booleans of shape (workers,).

    Returns:
        Booleans of shape (workers, workers), the argument `links` of `mix`. Inactive workers neither hear others nor
        are heard, and keep their values. On symmetric topologies the mean over the active workers stays the same.

    Example:
        >>> links_among(jnp.array([True, False, True])).astype(int).tolist()
        [[1, 0, 1], [0, 0, 0], [1, 0, 1]]
    """
    active = jnp.asarray(active)
    return active[:, None] & active[None]


def lossy_links(key: jax.Array, size: int, probability: jax.typing.ArrayLike) -> jax.Array:
    """Draws links at random, each of which is lost with some probability, in both directions at once.

    Use it when you want to know how a method behaves on a network that loses messages.

    Args:
        key: Seed of the random draws, a JAX key (not an integer). Must be equal on all workers, and another one in each
            step.
        size: Number of workers, at least 1.
        probability: Probability that a link is lost, in [0, 1].

    Returns:
        Symmetric booleans of shape (workers, workers), the argument `links` of `mix`. A worker always hears itself.

    Raises:
        ValueError: If `size` or `probability` is out of its range.

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
        summary="Draws at random which links are lost in a step, in both directions at once.",
        also_known_as=("link failures", "unreliable links"),
    ),
    Method(
        name="links_among",
        factory=links_among,
        kind="function",
        summary="Makes the links of a step in which only the active workers exchange messages.",
        also_known_as=("partial participation",),
    ),
)
