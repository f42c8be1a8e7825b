"""Mixing over channels that add noise."""

from typing import Any

import jax
import jax.numpy as jnp

from optkit.core import keys
from optkit.core.checks import check_range
from optkit.core.precision import widen
from optkit.core.types import Key
from optkit.decentralized._mixing import Mixing, mix
from optkit.decentralized.topology import Topology
from optkit.method import Method

__all__ = ["noisy_mix"]


def noisy_mix(scale: float, *, key: Key) -> Mixing:
    """Makes a mixing whose messages arrive with Gaussian noise.

    The rule, where n_j is the noise that worker j adds to its message, the same for all its neighbours::

        x_i = x_i + sum_j W_ij * (x_j + n_j - x_i)       # sum over the neighbours j

    A worker's own value has no noise. The noise moves the mean over workers.

    Use it when you want to know how a method behaves on bad channels, or with noise that protects privacy.

    Args:
        scale: Standard deviation of the noise of each number, at least 0.
        key: Seed of the random draws, an integer or a JAX key. The noise is a function of the key, the step and the
            worker.

    Returns:
        A mixing.

    Raises:
        ValueError: If `scale` is negative.

    Example:
        >>> from optkit.decentralized.topology import ring
        >>> mixing = noisy_mix(1e-3, key=0)
        >>> over_workers = jax.vmap(lambda x: mixing(x, ring(3), "workers"), axis_name="workers")
        >>> over_workers(jnp.array([0.0, 0.0, 3.0])).round(1)
        Array([1., 1., 1.], dtype=float32)
    """
    check_range("scale", scale, 0.0)

    def mixing(tree, topology, axis_name, *, step: int | jax.Array = 0, links=None):
        worker = jax.lax.axis_index(axis_name)
        own_key = jax.random.fold_in(jax.random.fold_in(keys.typed(key), step), worker)
        leaves, structure = jax.tree.flatten(tree)
        noise = structure.unflatten(
            scale * jax.random.normal(jax.random.fold_in(own_key, index), x.shape, widen(x).dtype)
            for index, x in enumerate(leaves)
        )
        sent = jax.tree.map(lambda x, n: (x + n).astype(x.dtype), tree, noise)
        mixed = mix(sent, topology, axis_name, step=step, links=links)
        own_weight = _own_weight(topology, step, worker, links)
        return jax.tree.map(lambda m, n: (m - own_weight.astype(n.dtype) * n).astype(m.dtype), mixed, noise)

    return mixing


def _own_weight(topology: Topology, step: Any, worker: Any, links: jax.Array | None) -> jax.Array:
    """Returns the weight of a worker's own value, including the weights of messages that it does not hear."""
    row = jnp.asarray(topology.matrices)[step % topology.period, worker]
    heard = jnp.arange(topology.size) != worker
    return 1 - jnp.sum(jnp.where(heard if links is None else heard & jnp.asarray(links)[worker], row, 0))


METHODS = (
    Method(
        name="noisy_mix",
        factory=noisy_mix,
        kind="function",
        summary="Mixes messages that arrive with Gaussian noise.",
        also_known_as=("noisy channels", "communication noise"),
    ),
)
