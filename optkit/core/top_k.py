"""The entries of largest magnitude, of a whole array or of each block of adjacent entries."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from optkit.core.linalg.explicit_axes import replicate

# JAX's indices have 31 bits. A longer vector is handled as a matrix with rows of this length.
_COUNTED = 2**31 - 1
_ROW = 2**16


def top_k(x: jax.Array, k: int) -> jax.Array:
    """Finds the entries of largest magnitude.

    Args:
        x: An array. It is gathered if it is sharded over explicit mesh axes.
        k: Number of entries, from 0 to the size of `x`.

    Returns:
        `k` places in the flattened array, as 32-bit integers, the largest entry first. Of equal entries, the first
        comes first.

    Example:
        >>> top_k(jnp.array([[1.0, -3.0], [2.0, 0.0]]), 2).tolist()
        [1, 2]
    """
    return jax.lax.top_k(jnp.abs(replicate(x)).ravel(), k)[1]


def number_in_blocks(size: int, block_size: int, density: float) -> int:
    """Returns how many entries `top_k_in_blocks` finds.

    Args:
        size: Number of all entries.
        block_size: See `top_k_in_blocks`.
        density: See `top_k_in_blocks`.

    Returns:
        `ceil(density * block_size)` for each block, and the same share, rounded up, of a shorter last block.

    Example:
        >>> number_in_blocks(150, 64, 0.1), number_in_blocks(5, 64, 0.1), number_in_blocks(0, 64, 0.1)
        (17, 1, 0)
    """
    block, each = _block(size, block_size, density)
    return size // block * each + math.ceil(size % block * density)


def top_k_in_blocks(x: jax.Array, block_size: int, density: float) -> jax.Array:
    """Finds the entries of largest magnitude in each block of a flattened array.

    Args:
        x: An array. It is gathered if it is sharded over explicit mesh axes. An array smaller than a block is one
            block.
        block_size: Number of adjacent entries in a block. The last block may be shorter.
        density: Share of the entries of each block, in (0, 1], rounded up.

    Returns:
        Their places, counted from the start of each block, one block after another. They are 16-bit integers if these
        are large enough, and 32-bit integers otherwise. `places_in_whole` counts from the start of the array.

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
    """Returns the first entries of each block, as many and in the dtype in which `top_k_in_blocks` returns the largest.

    Args:
        size: Number of all entries.
        block_size: See `top_k_in_blocks`.
        density: See `top_k_in_blocks`.

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
    """Converts places that `top_k_in_blocks` counts from the start of a block to places in the whole array.

    Args:
        places: The places, perhaps stacked along leading axes.
        size: Number of all entries.
        block_size: See `top_k_in_blocks`.
        density: See `top_k_in_blocks`.

    Returns:
        Places in the flattened array, as 32-bit integers, which are unsigned if there are more than `2**31 - 1`
        entries.

    Raises:
        ValueError: If there are more than `2**32` entries.

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
        flat: The vector.
        places: Places of the entries, not negative.

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
        flat: The vector.
        places: Places of the entries, not negative.
        values: What is added to them.
        unique: Whether all places are different. Default: True.

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
    """Returns the size of a full block, at least 1, and how many of its entries are found."""
    block = max(min(size, block_size), 1)
    return block, math.ceil(block * density)


def _dtype(block: int) -> Any:
    return jnp.int16 if block <= 2**15 else jnp.int32
