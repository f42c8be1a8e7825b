"""What recursive and anchored estimators share: gradients at other points, and the leaves they estimate."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.extra_args import require_params, require_whole_tree, required
from optkit.core.non_finite import nan_for_infinite
from optkit.core.precision import widen
from optkit.core.trees import copy, mask_tree
from optkit.core.workers import collectives


class Scope(NamedTuple):
    """Which leaves a method estimates, and how error messages name the method.

    Attributes:
        method: The public name of the method.
        leaves: A tree of booleans, or a function that makes it from the parameters; None for all leaves.
        argument: The public name of the argument that gave `leaves`.
    """

    method: str
    leaves: Any | None = None
    argument: Literal["applies_to", "trainable"] = "applies_to"


def kept_params(scope: Scope, params: Any) -> Any:
    """Copies the parameters for the state to keep, so that the originals can be donated.

    Args:
        scope: The scope of the method.
        params: The whole tree of parameters.

    Returns:
        The copy.

    Raises:
        TypeError: If `optax.masked` or `optax.partition` cut leaves out of the tree.

    Example:
        >>> kept_params(Scope("storm"), {"w": jnp.ones(2)})
        {'w': Array([1., 1.], dtype=float32)}
    """
    require_whole_tree(params, scope.method)
    return copy(params)


def present_params(scope: Scope, params: Any) -> Any:
    """Returns the parameters that `update` was given, or raises an error if they are missing."""
    require_params(params, scope.method)
    return params


def inside(scope: Scope, tree: Any) -> Any:
    """Cuts a whole tree down to the leaves of a scope, in float32 at least."""
    require_whole_tree(tree, scope.method)
    return widen(mask_tree(scope.leaves, tree, scope.argument))


def no_estimate(scope: Scope, params: Any) -> Any:
    """Returns the estimate before the first step: zeros in float32 at least, shaped like the leaves of a scope."""
    require_whole_tree(params, scope.method)
    return widen(optax.tree.zeros_like(mask_tree(scope.leaves, params, scope.argument)))


def previous_gradients(
    scope: Scope, previous_params: Any, grad_fn: Callable[[Any], Any] | None, prev_grads: Any
) -> Any:
    """Computes this batch's gradient at the previous parameters, on the leaves of a scope and in float32 at least.

    Args:
        scope: The scope of the method.
        previous_params: The parameters that the method kept, at which `grad_fn` is called; None if it takes
            `prev_grads`.
        grad_fn: The extra argument of `update`.
        prev_grads: The extra argument of `update`.

    Returns:
        The gradient.

    Raises:
        TypeError: If the extra argument is missing.

    Example:
        >>> previous_gradients(Scope("storm"), jnp.array([3.0]), lambda x: 2 * x, None)
        Array([6.], dtype=float32)
    """
    if previous_params is None:
        example = "prev_grads=jax.grad(loss)(previous_params, batch)"
        return inside(scope, required(prev_grads, "prev_grads", scope.method, example))
    gradients_at = required(grad_fn, "grad_fn", scope.method, "grad_fn=lambda point: jax.grad(loss)(point, batch)")
    return inside(scope, gradients_at(previous_params))


def full_gradients(scope: Scope, params: Any, full_grad_fn: Callable[[Any], Any] | None) -> Any:
    """Computes the gradient over all data, on the leaves of a scope and in float32 at least.

    Args:
        scope: The scope of the method.
        params: The parameters at which the gradient is taken.
        full_grad_fn: The extra argument of `update`.

    Returns:
        The gradient.

    Raises:
        TypeError: If the extra argument is missing.

    Example:
        >>> full_gradients(Scope("svrg"), jnp.array([3.0]), lambda x: 2 * x)
        Array([6.], dtype=float32)
    """
    full_gradients_at = required(full_grad_fn, "full_grad_fn", scope.method, "full_grad_fn=jax.grad(loss_of_all_data)")
    return inside(scope, full_gradients_at(params))


def recursion(gradients: Any, previous: Any, estimate: Any, weight: jax.typing.ArrayLike | Any) -> Any:
    """Moves an estimate along with the gradient and pulls it towards the gradient.

    Args:
        gradients: The gradient of this batch at the parameters.
        previous: The gradient of this batch at the previous parameters.
        estimate: The estimate of the previous step.
        weight: Weight of the gradient, in [0, 1]: one number, or a tree of arrays.

    Returns:
        The new estimate, in the dtypes of the old one. With weight 1 it is the gradient. Infinite entries become NaN,
        because the estimate never forgets.

    Example:
        >>> recursion(jnp.array([5.0]), jnp.array([4.0]), jnp.array([2.0]), 0.5)
        Array([4.], dtype=float32)
    """

    def leaf(g, p, d, a):
        return (g + (1 - jnp.asarray(a, d.dtype)) * (d - p)).astype(d.dtype)

    return nan_for_infinite(jax.tree.map(leaf, gradients, previous, estimate, jax.tree.broadcast(weight, estimate)))


def recursion_with_refresh(
    refresh: jax.Array, estimate: Any, full: Callable[[], Any], gradients: Any, previous: Callable[[], Any]
) -> Any:
    """Moves an estimate along with the gradient, or replaces it by the full gradient; evaluates only what it needs.

    Args:
        refresh: Whether to replace it, equal on all workers.
        estimate: The estimate of the previous step.
        full: A function that returns the gradient over all data.
        gradients: The gradient of this batch at the parameters.
        previous: A function that returns the gradient of this batch at the previous parameters.

    Returns:
        The new estimate, in the dtypes of the old one.

    Example:
        >>> refresh = jnp.array(False)
        >>> recursion_with_refresh(refresh, jnp.ones(1), lambda: jnp.zeros(1), jnp.array([5.0]), lambda: jnp.ones(1))
        Array([5.], dtype=float32)
    """
    return collectives.cond(
        refresh,
        lambda: nan_for_infinite(optax.tree.cast_like(full(), estimate)),
        lambda: recursion(gradients, previous(), estimate, 0.0),
    )


def is_due(count: jax.Array, every: jax.typing.ArrayLike) -> jax.Array:
    """Returns whether a step is the first of a period; the period may be an array in the state of an optimizer."""
    return count % jnp.asarray(every, count.dtype) == 0


def normalization() -> optax.GradientTransformation:
    """Divides updates by their global norm; zeros stay zeros."""
    return optax.normalize_by_update_norm(eps=1e-12)


def descent(build: Callable[..., Any], learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Puts plain gradient descent after an estimator, so that catalog entries make an optimizer of it."""
    return optax.chain(build(), optax.scale_by_learning_rate(learning_rate))
