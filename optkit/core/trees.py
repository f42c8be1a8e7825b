"""Trees with one value per parameter (masks, labels, axes of matrices), and functions that make them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers

from optkit.core.types import Mask


def is_function(x: Any) -> bool:
    """Tells whether a mask, or a similar argument, is a function of the parameters and not a tree.

    A tree of parameters can be callable itself, like a model of Equinox. An argument is therefore a function if it has
    leaves and all of them are callable, which is how `optax.masked` decides.

    Args:
        x: The argument.

    Returns:
        Whether it must be called with the parameters.

    Example:
        >>> is_function(lambda params: params), is_function({"kernel": True})
        (True, False)
    """
    leaves = jax.tree.leaves(x)
    return bool(leaves) and all(map(callable, leaves))


def resolve(name: str, choice: Any, tree: Any) -> Any:
    """Makes a tree with one value per parameter from a mask or a similar argument.

    Args:
        name: Name of the argument, for messages.
        choice: A tree of values, which may be a prefix of `tree`; a function that makes it from `tree`; or None.
        tree: The whole tree of parameters, or of gradients.

    Returns:
        A tree with the structure of `tree`; None if `choice` is None, and `tree` itself if it has no leaves.

    Raises:
        TypeError: If a single boolean or array is given for a tree of several leaves, which `optax.inject_hyperparams`
            makes from a function.

    Example:
        >>> resolve("mask", {"layer": True, "bias": False}, {"layer": {"kernel": 1.0, "scale": 2.0}, "bias": 3.0})
        {'bias': False, 'layer': {'kernel': True, 'scale': True}}
    """
    if choice is None or not jax.tree.leaves(tree):
        return None if choice is None else tree
    values = choice(tree) if is_function(choice) else choice
    if isinstance(values, (bool, np.bool_, np.ndarray, jax.Array)) and not jax.tree_util.all_leaves([tree]):
        raise TypeError(
            f"{name} must be a tree with one value per parameter, or a function that makes it, got {values!r} for"
            f" {jax.tree.structure(tree).num_leaves} parameters; optax.inject_hyperparams calls functions as schedules:"
            f" name {name!r} in its static_args, or use optkit.inject_hyperparams"
        )
    return jax.tree.map(
        lambda value, part: jax.tree.map(lambda _: value, part),
        values,
        tree,
        is_leaf=lambda x: x is None or isinstance(x, MuonDimensionNumbers),
    )


def with_whole_tree(
    build: Callable[..., optax.GradientTransformation], **choices: Any
) -> optax.GradientTransformationExtraArgs:
    """Builds a transformation from masks and labels that are made from the whole tree of parameters.

    A function inside `optax.partition` or `optax.masked` would receive holes in place of the other parameters.

    Args:
        build: Makes the transformation from the keyword arguments `choices`, each of them a tree with one value per
            parameter, or None. The state may depend only on the shapes of the parameters. Pass labels to
            `optax.partition` as `lambda _: labels` and masks to `optax.masked` as `lambda _: mask`, because both
            mistake a callable tree, such as a model of Equinox, for a function.
        **choices: What `resolve` accepts, by name.

    Returns:
        The transformation.

    Example:
        >>> def decay(mask):
        ...     return optax.add_decayed_weights(0.1, lambda _: mask)
        >>> tx = with_whole_tree(decay, mask=lambda params: {"kernel": True, "bias": False})
        >>> params = {"kernel": 1.0, "bias": 1.0}
        >>> tx.update({"kernel": 0.0, "bias": 0.0}, tx.init(params), params)[0]
        {'bias': 0.0, 'kernel': 0.1}
    """

    def built(tree):
        return optax.with_extra_args_support(
            build(**{name: resolve(name, choice, tree) for name, choice in choices.items()})
        )

    def init_fn(params):
        return built(params).init(params)

    def update_fn(updates, state, params=None, **extra_args):
        return built(updates if params is None else params).update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def mask_tree(mask: Mask, tree: Any, name: str = "mask") -> Any:
    """Keeps the leaves inside a mask.

    Args:
        mask: A tree of booleans, which may be a prefix of `tree`, or a function that makes it from `tree`. None keeps
            all.
        tree: Any tree.
        name: Name of the argument, for messages. Default: "mask".

    Returns:
        The tree, with `optax.MaskedNode` in place of the leaves outside the mask, so that `jax.tree.map` skips them.

    Example:
        >>> mask_tree({"kernel": True, "bias": False}, {"kernel": 1.0, "bias": 2.0})
        {'bias': MaskedNode(), 'kernel': 1.0}
    """
    if mask is None:
        return tree
    return jax.tree.map(lambda keep, x: x if keep else optax.MaskedNode(), resolve(name, mask, tree), tree)


def unmask_tree(inside: Any, outside: Any) -> Any:
    """Puts back the leaves that `mask_tree` removed.

    Args:
        inside: A tree with `optax.MaskedNode` for some leaves.
        outside: The whole tree, from which these leaves are taken.

    Returns:
        The whole tree.

    Example:
        >>> unmask_tree({"kernel": 1.0, "bias": optax.MaskedNode()}, {"kernel": 3.0, "bias": 4.0})
        {'bias': 4.0, 'kernel': 1.0}
    """
    return jax.tree.map(lambda x, whole: whole if is_masked(x) else x, inside, outside, is_leaf=is_masked)


def is_masked(x: Any) -> bool:
    """Tells whether a node stands for a leaf that `optax.masked` removed."""
    return isinstance(x, optax.MaskedNode)


def only(tx: optax.GradientTransformation, trainable: Mask | None) -> optax.GradientTransformationExtraArgs:
    """Applies an optimizer to some parameters, and gives updates of zero to all others.

    Args:
        tx: A whole optimizer, which receives the whole tree.
        trainable: Which leaves are trained: a tree of booleans, or a function that makes it from the parameters.
            Default: all. The tree may be a prefix.

    Returns:
        The optimizer.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = only(optax.sgd(1.0), {"kernel": True, "bias": False})
        >>> params = {"kernel": jnp.ones(1), "bias": jnp.ones(1)}
        >>> tx.update(params, tx.init(params))[0]
        {'bias': Array([0.], dtype=float32), 'kernel': Array([-1.], dtype=float32)}
    """
    if trainable is None:
        return optax.with_extra_args_support(tx)

    def frozen(tree):
        return jax.tree.map(lambda keep: not keep, resolve("trainable", trainable, tree))

    return optax.chain(tx, optax.masked(optax.set_to_zero(), frozen))


def copy(tree: Any) -> Any:
    """Copies arrays for a state that keeps them, so that the parameters can be donated.

    Args:
        tree: Arrays, or `jax.ShapeDtypeStruct`, which is replaced by zeros of that shape and sharding.

    Returns:
        The copies.

    Example:
        >>> copy(jax.ShapeDtypeStruct((2,), "float32"))
        Array([0., 0.], dtype=float32)
    """

    def leaf(x):
        if isinstance(x, jax.ShapeDtypeStruct):
            return jnp.zeros(x.shape, x.dtype, device=x.sharding)
        return jnp.array(x, copy=True)

    return jax.tree.map(leaf, tree)


def concrete(tree: Any) -> Any:
    """Replaces leaves that are only types by zeros, for an `init` that transposes or reduces them.

    Args:
        tree: Arrays, which stay as they are, and `jax.ShapeDtypeStruct`.

    Returns:
        A tree of arrays.

    Example:
        >>> concrete(jax.ShapeDtypeStruct((2,), "float32"))
        Array([0., 0.], dtype=float32)
    """
    return jax.tree.map(lambda x: copy(x) if isinstance(x, jax.ShapeDtypeStruct) else x, tree)
