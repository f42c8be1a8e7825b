"""What recursive and anchored estimators share: this batch's gradient at another point, and their masks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optkit.core import collectives
from optkit.core.extra_args import require_whole_tree, required
from optkit.core.precision import widen
from optkit.core.trees import mask_tree


def kept_params(params: Any, method: str) -> Any:
    """Copies parameters for a state to keep, so that they can be donated.

    Args:
        params: the whole tree of them.
        method: the public name of the transformation.

    Returns:
        The copy.

    Raises:
        TypeError: if `optax.masked` or `optax.partition` cut leaves out of the tree.

    Example:
        >>> kept_params({"w": jnp.ones(2)}, "storm")
        {'w': Array([1., 1.], dtype=float32)}
    """
    require_whole_tree(params, method)
    return jax.tree.map(jnp.copy, params)


def present_params(params: Any, method: str) -> Any:
    """Returns the parameters that `update` was given, or says that they are missing."""
    if params is None:
        raise ValueError(f"{method} needs the parameters: call update(grads, state, params, ...)")
    return params


def inside(mask: Any, tree: Any, method: str) -> Any:
    """Cuts a whole tree down to the leaves inside the mask, in float32 at least."""
    require_whole_tree(tree, method)
    return widen(mask_tree(mask, tree))


def previous_gradients(
    method: str, mask: Any, previous_params: Any, grad_fn: Callable[[Any], Any] | None, prev_grads: Any
) -> Any:
    """Gives this batch's gradient at the previous parameters, inside the mask and in float32 at least.

    Args:
        method: the public name of the transformation.
        mask: the leaves that it works on.
        previous_params: what it kept, to call `grad_fn` there; None if it takes `prev_grads`.
        grad_fn: extra argument of `update`.
        prev_grads: extra argument of `update`.

    Returns:
        The gradient.

    Raises:
        TypeError: if the extra argument is missing.

    Example:
        >>> previous_gradients("storm", None, jnp.array([3.0]), lambda x: 2 * x, None)
        Array([6.], dtype=float32)
    """
    if previous_params is None:
        example = "prev_grads=jax.grad(loss)(previous_params, batch)"
        return inside(mask, required(prev_grads, "prev_grads", method, example), method)
    gradients_at = required(grad_fn, "grad_fn", method, "grad_fn=lambda point: jax.grad(loss)(point, batch)")
    return inside(mask, gradients_at(previous_params), method)


def full_gradients(method: str, mask: Any, params: Any, full_grad_fn: Callable[[Any], Any] | None) -> Any:
    """Gives the gradient over all data, inside the mask and in float32 at least.

    Args:
        method: the public name of the transformation.
        mask: the leaves that it works on.
        params: where.
        full_grad_fn: extra argument of `update`.

    Returns:
        The gradient.

    Raises:
        TypeError: if the extra argument is missing.

    Example:
        >>> full_gradients("svrg", None, jnp.array([3.0]), lambda x: 2 * x)
        Array([6.], dtype=float32)
    """
    full_gradients_at = required(full_grad_fn, "full_grad_fn", method, "full_grad_fn=jax.grad(loss_of_all_data)")
    return inside(mask, full_gradients_at(params), method)


def recursion(gradients: Any, previous: Any, estimate: Any, weight: jax.typing.ArrayLike | Any) -> Any:
    """Moves an estimate along with the gradient and pulls it towards the gradient.

    Args:
        gradients: this batch's gradient at the parameters.
        previous: this batch's gradient at the previous parameters.
        estimate: the estimate of the previous step.
        weight: of the gradient, in [0, 1]: one number, or a tree of arrays.

    Returns:
        The new estimate, in the old one's dtypes. With weight 1 it is the gradient.

    Example:
        >>> recursion(jnp.array([5.0]), jnp.array([4.0]), jnp.array([2.0]), 0.5)
        Array([4.], dtype=float32)
    """
    return jax.tree.map(
        lambda g, p, d, a: (g + (1 - a) * (d - p)).astype(d.dtype),
        gradients,
        previous,
        estimate,
        jax.tree.broadcast(weight, estimate),
    )


def recursion_with_refresh(
    refresh: jax.Array, estimate: Any, full: Callable[[], Any], gradients: Any, previous: Callable[[], Any]
) -> Any:
    """Moves an estimate along with the gradient, or replaces it by the full one; evaluates only what it takes.

    Args:
        refresh: whether to replace it, equal on all workers.
        estimate: the estimate of the previous step.
        full: gives the gradient over all data.
        gradients: this batch's gradient at the parameters.
        previous: gives this batch's gradient at the previous parameters.

    Returns:
        The new estimate, in the old one's dtypes.

    Example:
        >>> refresh = jnp.array(False)
        >>> recursion_with_refresh(refresh, jnp.ones(1), lambda: jnp.zeros(1), jnp.array([5.0]), lambda: jnp.ones(1))
        Array([5.], dtype=float32)
    """
    return collectives.cond(
        refresh,
        lambda: optax.tree.cast_like(full(), estimate),
        lambda: recursion(gradients, previous(), estimate, 0.0),
    )


def only(mask: Any, transformation: optax.GradientTransformation) -> optax.GradientTransformation:
    """Lets the leaves outside a mask pass through a transformation; None keeps all inside."""
    return transformation if mask is None else optax.masked(transformation, mask)


def normalization(mask: Any) -> optax.GradientTransformation:
    """Divides the leaves inside a mask by their global norm; zeros stay zeros."""
    return only(mask, optax.normalize_by_update_norm(eps=1e-12))
