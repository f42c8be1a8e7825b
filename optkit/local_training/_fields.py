"""Fields of an optimizer's state, by name."""

from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp


def named_fields(names: Collection[str] | None, state: Any) -> tuple[list[jax.Array], Callable[[list[jax.Array]], Any]]:
    """Finds the arrays in the fields of a state that have one of some names, at any depth.

    Args:
        names: Names of fields, such as "mu" of Adam or "trace" of momentum. None stands for none.
        state: The state.

    Returns:
        The arrays of floating-point numbers, and a function that returns the state with others in their place.

    Example:
        >>> import optax
        >>> import jax.numpy as jnp
        >>> arrays, with_others = named_fields(("mu",), optax.scale_by_adam().init(jnp.ones(2)))
        >>> arrays, with_others([jnp.ones(2)]).mu
        ([Array([0., 0.], dtype=float32)], Array([1., 1.], dtype=float32))
    """
    found, structure = jax.tree.flatten_with_path(state)
    leaves = [leaf for _, leaf in found]
    chosen = [i for i, (path, leaf) in enumerate(found) if _fields(path) & set(names or ()) and _is_averaged(leaf)]

    def with_others(arrays):
        new = list(leaves)
        for i, array in zip(chosen, arrays, strict=True):
            new[i] = array
        return structure.unflatten(new)

    return [leaves[i] for i in chosen], with_others


def require_fields(names: Collection[str] | None, state: Any) -> None:
    """Raises unless a state has fields of all names.

    Args:
        names: Names of fields, or None.
        state: The state.

    Raises:
        ValueError: If it has no array of floating-point numbers in a field of a name.
    """
    for name in names or ():
        if not named_fields((name,), state)[0]:
            raise ValueError(f"average_state names {name!r}, but the inner state has no such field to average")


def _fields(path: Any) -> set[str]:
    return {key.name for key in path if isinstance(key, jax.tree_util.GetAttrKey)}


def _is_averaged(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)
