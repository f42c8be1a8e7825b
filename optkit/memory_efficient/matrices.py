"""How methods for matrices see a leaf: its last axis (Flax's output channels) against all others."""

import math
from typing import Any

import jax

from optkit.core.explicit_axes import replicate


def is_matrix(tree: Any) -> Any:
    """Says of each leaf of a tree whether it has two axes or more."""
    return jax.tree.map(lambda x: x.ndim >= 2, tree)


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Gives the rows and columns of a leaf; a vector is a row.

    Example:
        >>> matrix_shape((3, 3, 2, 4))
        (18, 4)
    """
    return math.prod(shape[:-1]), shape[-1] if shape else 1


def as_matrix(x: jax.Array) -> jax.Array:
    """Views a leaf as a matrix; one of more than two axes is gathered first where mesh axes are explicit."""
    return x if x.ndim == 2 else replicate(x).reshape(matrix_shape(x.shape))
