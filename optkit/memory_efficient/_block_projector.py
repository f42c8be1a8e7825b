"""Whole leaves as subspaces: some leaves are chosen for a while, and the others are outside the subspace.

Zmushko, Beznosikov, Takáč, Horváth, "FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable
Training", 2024, arXiv:2411.07837. The orders are those of the authors' code (fzmushko/FRUGAL, `BlockOptimizer`).
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from optkit.core.checks import check_option, check_range
from optkit.core.injection import refuse_arrays
from optkit.memory_efficient._frugal import FRUGAL
from optkit.memory_efficient._projector import Projector
from optkit.method import Method

__all__ = ["block_projector"]

BlockOrder = Literal["random", "ascending", "descending", "mirror"]


def block_projector(density: float, order: BlockOrder = "random") -> Projector:
    """Chooses whole leaves as the subspace of `frugal`: some leaves are inside it for a while, the others outside.

    Use it when you want to compare with FRUGAL's or BAdam's blocks in one compiled program. Avoid it when you want to
    save memory, because all leaves keep the state that they need when they are chosen: a compiled program has fixed
    shapes. `frugal_blocks` does save memory.

    Args:
        density: Share of the leaves that are chosen at a time, in [0, 1]. Their number is rounded; a half is rounded to
            the even number.
        order: Which leaves come next: "random", "ascending", "descending" or "mirror". Default: "random". "ascending"
            follows the order of the tree, "descending" the reverse order. "mirror" takes one half from the first leaves
            on and the other half from the last leaves on, towards the middle; the middle leaf of an odd number of
            leaves is never chosen. These three begin anew at the end.

    Returns:
        A `Projector` whose projections are booleans.

    Raises:
        ValueError: If an argument is outside its range; from `find`, if the order is "mirror" and the number of chosen
            leaves is odd.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> projector = optkit.block_projector(0.5, "descending")
        >>> tree = {"a": jnp.ones(2), "b": jnp.ones(2)}
        >>> projector.find(tree, None, jnp.array(0), None)
        {'a': Array(False, dtype=bool), 'b': Array(True, dtype=bool)}
    """
    refuse_arrays(density=density)
    check_blocks(density, order)

    def find(gradients, projections, period, key):
        del projections
        leaves, structure = jax.tree.flatten(gradients)
        chosen = chosen_blocks(len(leaves), density, order, period, key)
        return structure.unflatten([chosen[index] for index in range(len(leaves))])

    return Projector(
        is_empty=lambda _: False,
        is_whole=lambda _: False,
        start=lambda _: jnp.zeros([], bool),
        find=find,
        down=lambda active, x: jnp.where(active, x, 0),
        up=lambda active, low, _: jnp.where(active, low, 0),
        draws=order == "random",
        of_matrices=False,
    )


def check_blocks(density: float, order: BlockOrder) -> None:
    """Raises a ValueError unless the arguments of `block_projector` are in their ranges."""
    check_range("density", density, 0.0, 1.0)
    check_option("order", order, BlockOrder)


def chosen_blocks(total: int, density: float, order: BlockOrder, period: Any, key: Any) -> jax.Array:
    """Returns one boolean for each of `total` leaves: whether the leaf is chosen in this period."""
    active = round(total * density)
    if order == "random":
        return jax.random.permutation(key, total) < active
    places = jnp.arange(total)
    if order == "mirror":
        if active % 2:
            raise ValueError(f"order 'mirror' takes pairs, but density {density} of {total} leaves is {active}")
        half = total // 2
        places = jnp.minimum(places, total - 1 - places)
        return (places < half) & ((places - period * (active // 2)) % max(half, 1) < active // 2)
    places = places[::-1] if order == "descending" else places
    return (places - period * active) % max(total, 1) < active


METHODS = (
    Method(
        name="block_projector",
        factory=block_projector,
        kind="function",
        summary="Chooses whole leaves as the subspace of FRUGAL: some are inside it for a while, the others outside.",
        paper=FRUGAL,
        also_known_as=("BlockOptimizer", "BlockAdamW"),
    ),
)
