"""Infinities, which must not lead to steps that look normal."""

import functools
from typing import Any

import jax
import jax.numpy as jnp


def nan_for_infinite(tree: Any) -> Any:
    """Replaces infinities by NaN.

    The sign of an infinite average, and a rate divided by an infinite sum, stay finite forever. NaN remains NaN in
    both.

    Args:
        tree: Arrays.

    Returns:
        The tree.

    Example:
        >>> nan_for_infinite(jnp.array([1.0, jnp.inf]))
        Array([ 1., nan], dtype=float32)
    """
    return jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), x, jnp.nan), tree)


def all_finite(tree: Any) -> jax.Array:
    """Tells whether a tree has neither NaN nor infinities.

    Args:
        tree: Arrays.

    Returns:
        A boolean.

    Example:
        >>> all_finite({"a": jnp.ones(2), "b": jnp.inf}), all_finite({})
        (Array(False, dtype=bool), Array(True, dtype=bool))
    """
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)], bool))


def finite_along(x: jax.Array, axis: tuple[int, ...], *, keepdims: bool = False) -> jax.Array:
    """Tells for each part of an array whether it has neither NaN nor infinities.

    Args:
        x: The array.
        axis: The axes of a part.
        keepdims: Whether these axes stay, with size 1.

    Returns:
        Booleans, one for each part.

    Example:
        >>> finite_along(jnp.array([[1.0, 3e38 + 3e38j], [jnp.nan, 0.0]]), (1,)).tolist()
        [True, False]
    """
    # The largest entry is infinite or NaN if any is. XLA compiles a maximum in half of the time of `jnp.all`. The
    # magnitude of a finite complex number may be infinite.
    parts = (x.real, x.imag) if jnp.iscomplexobj(x) else (x,)
    largest = functools.reduce(jnp.maximum, map(jnp.abs, parts))
    return jnp.isfinite(jnp.max(largest, axis=axis, keepdims=keepdims, initial=0.0))


def choose(condition: jax.Array, new: Any, old: Any) -> Any:
    """Returns one of two trees of the same structure, shapes and dtypes.

    Args:
        condition: A boolean.
        new: What is returned if it holds.
        old: What is returned otherwise.

    Returns:
        One of them.

    Example:
        >>> choose(jnp.array(False), jnp.array([jnp.nan]), jnp.array([2.0]))
        Array([2.], dtype=float32)
    """
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), new, old)
