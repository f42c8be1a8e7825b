"""Chunks of leaves: each leaf is a stack of matrices, cut into blocks of adjacent entries that all have one shape."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Chunks(NamedTuple):
    """How a leaf is cut into chunks.

    Attributes:
        shape: The shape of the leaf. Its last two axes are those of the matrices; a vector is one row.
        rows: How many chunks there are along the rows of a matrix, and of how many entries.
        columns: The same along its columns.
    """

    shape: tuple[int, ...]
    rows: tuple[int, int]
    columns: tuple[int, int]

    @classmethod
    def square(cls, shape: tuple[int, ...], longest: int) -> "Chunks":
        """Cuts both axes of the matrices into the longest equal parts of at most so many entries."""
        rows, columns = (1, 1, *shape)[-2:]
        return cls(shape, cut(rows, longest), cut(columns, longest))

    @property
    def size(self) -> int:
        """Number of entries in a chunk."""
        return self.rows[1] * self.columns[1]

    @property
    def grid(self) -> tuple[int, int, int]:
        """Numbers of matrices, and of chunks along their rows and columns."""
        return math.prod(self.shape[:-2]), self.rows[0], self.columns[0]

    @property
    def number(self) -> int:
        """Number of chunks."""
        return math.prod(self.grid)

    def split(self, x: jax.Array) -> jax.Array:
        """Returns the chunks of a leaf, stacked along a leading axis."""
        blocks = x.reshape(self.grid[0], *self.rows, *self.columns).swapaxes(2, 3)
        return blocks.reshape(self.number, self.rows[1], self.columns[1])

    def join(self, chunks: jax.Array) -> jax.Array:
        """Undoes `split`."""
        blocks = chunks.reshape(*self.grid, self.rows[1], self.columns[1])
        return blocks.swapaxes(2, 3).reshape(self.shape)

    def spread(self, numbers: jax.Array) -> jax.Array:
        """Gives all entries of a chunk the number of that chunk."""
        chunks = numbers.reshape(self.number, 1, 1)
        return self.join(jnp.broadcast_to(chunks, (self.number, self.rows[1], self.columns[1])))


def cut(size: int, longest: int) -> tuple[int, int]:
    """Cuts an axis into the longest equal parts that are not too long.

    Args:
        size: Length of the axis.
        longest: The largest length of a part.

    Returns:
        The number of parts, and their length, the largest divisor of `size` that is at most `longest`.

    Example:
        >>> cut(12, 5), cut(7, 5)
        ((3, 4), (7, 1))
    """
    length = next((length for length in range(min(size, longest), 0, -1) if size % length == 0), 1)
    return size // length, length
