"""One gather for a whole tree of small arrays of any dtypes, so that a compressed message is a single collective."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optkit.core.types import AxisName
from optkit.core.workers.aggregation import gather_rows

# Messages travel as words of so many bytes: NCCL and XLA handle these well, and bytes one by one badly.
_WORD = 4


def gather_together(tree: Any, axis_name: AxisName | None) -> Any:
    """Gathers a tree of arrays from all workers by one collective, whatever their dtypes are.

    The arrays are sent bit for bit, one after another, as words of 32 bits. An array of fewer bits per entry is filled
    up to a whole word, which `bytes_together` counts.

    Args:
        tree: Arrays of one worker.
        axis_name: Name of the axis over workers. None means that there is only one worker.

    Returns:
        The tree, where each array has a leading axis over workers. It is equal on all workers.

    Example:
        >>> message = {"values": jnp.array([0.5, 2.0]), "codes": jnp.array([1, 2, 3], jnp.uint8)}
        >>> all_workers = jax.vmap(lambda tree: gather_together(tree, "workers"), axis_name="workers", out_axes=None)
        >>> all_workers(jax.tree.map(lambda x: jnp.stack([x, x + 1]), message))["codes"].tolist()
        [[1, 2, 3], [2, 3, 4]]
    """
    if axis_name is None:
        return jax.tree.map(lambda x: x[None], tree)
    leaves, structure = jax.tree.flatten(tree)
    if not leaves:
        return tree
    words = [_to_words(x) for x in leaves]
    rows = gather_rows(jnp.concatenate(words), axis_name)
    ends = np.cumsum([part.size for part in words])[:-1].tolist()
    parts = jnp.split(rows, ends, axis=1)
    return structure.unflatten([_from_words(part, x) for part, x in zip(parts, leaves, strict=True)])


def bytes_together(tree: Any) -> int:
    """Returns the number of bytes that one worker passes to `gather_together`.

    Args:
        tree: Arrays, or their shapes and dtypes.

    Returns:
        The number of bytes.

    Example:
        >>> bytes_together({"values": jnp.zeros(2, jnp.float32), "codes": jnp.zeros(3, jnp.uint8)})
        12
    """
    return sum(math.ceil(x.size * x.dtype.itemsize / _WORD) * _WORD for x in jax.tree.leaves(tree))


def _to_words(x: jax.Array) -> jax.Array:
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        x = jnp.stack([x.real, x.imag], axis=-1)
    flat = _as_integers(x.ravel())
    if flat.dtype.itemsize < _WORD:
        each = _WORD // flat.dtype.itemsize
        flat = jnp.pad(flat, (0, -flat.size % each)).reshape(math.ceil(flat.size / each), each)
    return jax.lax.bitcast_convert_type(flat, jnp.uint32).ravel()


def _from_words(rows: jax.Array, like: Any) -> jax.Array:
    if jnp.issubdtype(like.dtype, jnp.complexfloating):
        pairs = _from_words(rows, jax.ShapeDtypeStruct((*like.shape, 2), jnp.finfo(like.dtype).dtype))
        return jax.lax.complex(pairs[..., 0], pairs[..., 1])
    workers, itemsize = len(rows), like.dtype.itemsize
    if itemsize > _WORD:
        rows = rows.reshape(workers, like.size, itemsize // _WORD)
    integers = jax.lax.bitcast_convert_type(rows, _unsigned(like.dtype)).reshape(workers, -1)[:, : like.size]
    entries = integers != 0 if like.dtype == bool else jax.lax.bitcast_convert_type(integers, like.dtype)
    return entries.reshape(workers, *like.shape)


def _as_integers(flat: jax.Array) -> jax.Array:
    unsigned = _unsigned(flat.dtype)
    return flat.astype(unsigned) if flat.dtype == bool else jax.lax.bitcast_convert_type(flat, unsigned)


def _unsigned(dtype: Any) -> Any:
    return jnp.dtype(f"uint{8 * dtype.itemsize}")
