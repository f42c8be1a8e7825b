"""Extra arguments that a method cannot do without, and the masks of methods that need the whole parameter tree."""

from typing import Any

import jax
import optax


def required(value: Any, name: str, method: str, example: str) -> Any:
    """Returns an extra argument of `update`, or says that it is missing.

    Args:
        value: what was passed, None if nothing.
        name: the argument's name, for example `"grad_fn"`.
        method: the public name of the transformation.
        example: the argument in a call that works, for example `"grad_fn=jax.grad(loss)"`.

    Returns:
        `value`.

    Raises:
        TypeError: if it is None.

    Example:
        >>> required(1.0, "value", "polyak", "value=loss")
        1.0
    """
    if value is None:
        raise TypeError(f"{method} needs the extra argument {name}: call update(grads, state, params, {example})")
    return value


def require_whole_tree(tree: Any, method: str) -> None:
    """Says that a method which calls functions of the whole parameter tree sees a part of it only.

    Args:
        tree: parameters or gradients.
        method: the public name of the transformation.

    Raises:
        TypeError: if `optax.masked` or `optax.partition` cut leaves out of the tree.

    Example:
        >>> require_whole_tree({"kernel": 1.0, "bias": None}, "storm")
    """
    if any(map(_is_masked, jax.tree.leaves(tree, is_leaf=_is_masked))):
        raise TypeError(
            f"{method} evaluates functions of all parameters and cannot stand inside optax.masked or optax.partition: "
            "put it outside, and name the leaves that it works on by its own argument mask"
        )


def mask_tree(mask: Any, tree: Any) -> Any:
    """Keeps the leaves inside a mask.

    Args:
        mask: tree of booleans, a prefix of `tree`, or a function that makes it from `tree`; None keeps all.
        tree: any tree.

    Returns:
        The tree with `optax.MaskedNode` in place of the leaves outside, so that `jax.tree.map` passes over them.

    Example:
        >>> mask_tree({"kernel": True, "bias": False}, {"kernel": 1.0, "bias": 2.0})
        {'bias': MaskedNode(), 'kernel': 1.0}
    """
    mask = _resolve(mask, tree)
    return jax.tree.map(lambda keep, x: x if keep else optax.MaskedNode(), mask, tree)


def unmask_tree(inside: Any, outside: Any) -> Any:
    """Puts the leaves that `mask_tree` cut out back in.

    Args:
        inside: a tree with `optax.MaskedNode` for some leaves.
        outside: the whole tree that these leaves are taken from.

    Returns:
        The whole tree.

    Example:
        >>> unmask_tree({"kernel": 1.0, "bias": optax.MaskedNode()}, {"kernel": 3.0, "bias": 4.0})
        {'bias': 4.0, 'kernel': 1.0}
    """
    return jax.tree.map(lambda x, whole: whole if _is_masked(x) else x, inside, outside, is_leaf=_is_masked)


def _resolve(mask: Any, tree: Any) -> Any:
    """A mask as a tree of booleans, one for each leaf of `tree`."""
    mask = True if mask is None else mask(tree) if callable(mask) else mask
    return jax.tree.map(lambda keep, part: jax.tree.map(lambda _: keep, part), mask, tree)


def _is_masked(x: Any) -> bool:
    return isinstance(x, optax.MaskedNode)
