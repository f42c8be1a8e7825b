"""Products of arrays that may be sharded over explicit mesh axes."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec


def einsum(subscripts: str, *operands: jax.Array, precision: Any | None = None) -> jax.Array:
    """Computes `jnp.einsum`, and shards its result if operands are sharded over explicit mesh axes.

    Each axis of the result is sharded like the axis of an operand with the same letter. Sums over sharded axes are
    reduced.

    Args:
        subscripts: Letters with `->` and those of the result. All operands may begin with `...`.
        *operands: The arrays.
        precision: See `jnp.einsum`. Default: None.

    Returns:
        The product.

    Example:
        >>> einsum("...ij,...ik->...jk", jnp.ones((3, 2)), jnp.ones((3, 1)))
        Array([[3.],
               [3.]], dtype=float32)
    """
    return jnp.einsum(subscripts, *operands, precision=precision, out_sharding=_sharding(subscripts, operands))


def _sharding(subscripts: str, operands: tuple[jax.Array, ...]) -> NamedSharding | None:
    """Returns the sharding of the result, or None if no operand is sharded over explicit mesh axes."""
    inputs, output = subscripts.split("->")
    mesh, axes = None, {}
    for letters, operand in zip(inputs.split(","), operands, strict=True):
        sharding = jax.typeof(operand).sharding
        for letter, axis in zip(_expand(letters, operand.ndim), sharding.spec, strict=True):
            if axis is not None:
                mesh, axes[letter] = sharding.mesh, axis
    if mesh is None:
        return None
    rank = max(x.ndim - len(i.replace("...", "")) for i, x in zip(inputs.split(","), operands, strict=True))
    letters = _expand(output, rank + len(output.replace("...", "")))
    return NamedSharding(mesh, PartitionSpec(*(axes.get(letter) for letter in letters)))


def _expand(letters: str, rank: int) -> list[str | int]:
    """Numbers the axes that `...` stands for, from the last one."""
    if "..." not in letters:
        return list(letters)
    rest = letters.replace("...", "")
    return [*range(rank - len(rest), 0, -1), *rest]
