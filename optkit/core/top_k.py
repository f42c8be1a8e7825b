"""The entries of largest magnitude: of a whole array, or of each block of neighbours."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from optkit.core.linalg.explicit_axes import replicate

# JAX's indices have 31 bits; what is longer is taken for a matrix with rows of this length.
_COUNTED = 2**31 - 1
_ROW = 2**16


def top_k(x: jax.Array, k: int) -> jax.Array:
    """Finds the entries of largest magnitude.

    Args:
        x: an array; it is gathered where mesh axes are explicit.
        k: how many, from 0 to the size of `x`.

    Returns:
        `k` places in the flattened array, largest first and of equal entries the first one first, as integers of 32
        bits.

    Example:
        >>> top_k(jnp.array([[1.0, -3.0], [2.0, 0.0]]), 2).tolist()
        [1, 2]
    """
    return jax.lax.top_k(jnp.abs(replicate(x)).ravel(), k)[1]


def number_in_blocks(size: int, block_size: int, density: float) -> int:
    """Says how many entries `top_k_in_blocks` finds.

    Args:
        size: number of entries in all.
        block_size: as in `top_k_in_blocks`.
        density: as in `top_k_in_blocks`.

    Returns:
        `ceil(density * block_size)` for each block, `ceil` of that share for a shorter last one.

    Example:
        >>> number_in_blocks(150, 64, 0.1), number_in_blocks(5, 64, 0.1), number_in_blocks(0, 64, 0.1)
        (17, 1, 0)
    """
    block, each = _block(size, block_size, density)
    return size // block * each + math.ceil(size % block * density)


def top_k_in_blocks(x: jax.Array, block_size: int, density: float) -> jax.Array:
    """Finds the entries of largest magnitude in each block of a flattened array.

    Args:
        x: an array; it is gathered where mesh axes are explicit. An array smaller than a block is one.
        block_size: number of neighbours in a block; the last one has what is left.
        density: share of each block's entries, in (0, 1], rounded up.

    Returns:
        Their places, each counted from the start of its block, block after block: integers of 16 bits where they
        suffice, otherwise of 32. `places_in_whole` counts from the start of the array.

    Example:
        >>> top_k_in_blocks(jnp.array([1.0, 2.0, 0.0, 4.0, 5.0, 6.0, 7.0]), 3, 0.5).tolist()
        [1, 0, 2, 1, 0]
    """
    flat = jnp.abs(replicate(x)).ravel()
    block, each = _block(flat.size, block_size, density)
    end = flat.size // block * block
    places = jax.lax.top_k(flat[:end].reshape(-1, block), each)[1].ravel()
    if end < flat.size:
        rest = jax.lax.top_k(flat[end:], math.ceil((flat.size - end) * density))[1]
        places = jnp.concatenate([places, rest])
    return places.astype(_dtype(block))


def first_in_blocks(size: int, block_size: int, density: float) -> jax.Array:
    """Gives the first entries of each block where `top_k_in_blocks` would give the largest, in its dtype.

    Args:
        size: number of entries in all.
        block_size: as in `top_k_in_blocks`.
        density: as in `top_k_in_blocks`.

    Returns:
        Places counted from the start of each block.

    Example:
        >>> first_in_blocks(7, 3, 0.5).tolist()
        [0, 1, 0, 1, 0]
    """
    block, each = _block(size, block_size, density)
    places = jnp.arange(number_in_blocks(size, block_size, density)) % max(each, 1)
    return places.astype(_dtype(block))


def places_in_whole(places: jax.Array, size: int, block_size: int, density: float) -> jax.Array:
    """Counts places from the start of the whole array that `top_k_in_blocks` counts from the start of a block.

    Args:
        places: what it gave, perhaps stacked behind leading axes.
        size: number of entries in all.
        block_size: as in `top_k_in_blocks`.
        density: as in `top_k_in_blocks`.

    Returns:
        Places in the flattened array, as integers of 32 bits, without a sign where there are more than `2**31` entries.

    Raises:
        ValueError: if there are more than `2**32` entries.

    Example:
        >>> places_in_whole(jnp.array([1, 0, 2, 1, 0]), 7, 3, 0.5).tolist()
        [1, 0, 5, 4, 6]
    """
    if size > 2**32:
        raise ValueError(f"places are counted with 32 bits, got an array of {size} entries")
    dtype = jnp.int32 if size <= _COUNTED else jnp.uint32
    block, each = _block(size, block_size, density)
    starts = jnp.arange(places.shape[-1], dtype=dtype) // max(each, 1) * block
    return jnp.broadcast_to(starts, places.shape) + places.astype(dtype)


def take(flat: jax.Array, places: jax.Array) -> jax.Array:
    """Takes entries of a vector, which may have more of them than JAX's indices count.

    Args:
        flat: the vector.
        places: of the entries, not negative.

    Returns:
        The entries.

    Example:
        >>> take(jnp.array([1.0, 2.0, 3.0]), jnp.array([2, 0])).tolist()
        [3.0, 1.0]
    """
    if flat.size <= _COUNTED:
        return flat[places]
    return _in_rows(flat)[places // _ROW, places % _ROW]


def add(flat: jax.Array, places: jax.Array, values: jax.Array, *, unique: bool = True) -> jax.Array:
    """Adds to entries of a vector, which may have more of them than JAX's indices count.

    Args:
        flat: the vector.
        places: of the entries, not negative.
        values: what is added to them.
        unique: whether all places are different.

    Returns:
        The vector.

    Example:
        >>> add(jnp.array([1.0, 2.0, 3.0]), jnp.array([2, 0]), jnp.array([4.0, 5.0])).tolist()
        [6.0, 2.0, 7.0]
    """
    if flat.size <= _COUNTED:
        return flat.at[places].add(values, unique_indices=unique)
    rows = _in_rows(flat).at[places // _ROW, places % _ROW].add(values, unique_indices=unique)
    return rows.ravel()[: flat.size]


def _in_rows(flat: jax.Array) -> jax.Array:
    return jnp.pad(flat, (0, -flat.size % _ROW)).reshape(-1, _ROW)


def _block(size: int, block_size: int, density: float) -> tuple[int, int]:
    """The size of a full block, at least 1, and how many of its entries are found."""
    block = max(min(size, block_size), 1)
    return block, math.ceil(block * density)


def _dtype(block: int) -> Any:
    return jnp.int16 if block <= 2**15 else jnp.int32
