"""What recursive and anchored estimators share: this batch's gradient at another point, and the leaves they take."""

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
    """Which leaves a method estimates, and how its errors call it.

    Attributes:
        method: the public name of the method.
        leaves: tree of booleans, or a function that makes it; None for all leaves.
        argument: the public name of the argument that gave `leaves`.
    """

    method: str
    leaves: Any | None = None
    argument: Literal["applies_to", "trainable"] = "applies_to"


def kept_params(scope: Scope, params: Any) -> Any:
    """Copies parameters for a state to keep, so that they can be donated.

    Args:
        scope: of the method.
        params: the whole tree of them.

    Returns:
        The copy.

    Raises:
        TypeError: if `optax.masked` or `optax.partition` cut leaves out of the tree.

    Example:
        >>> kept_params(Scope("storm"), {"w": jnp.ones(2)})
        {'w': Array([1., 1.], dtype=float32)}
    """
    require_whole_tree(params, scope.method)
    return copy(params)


def present_params(scope: Scope, params: Any) -> Any:
    """Returns the parameters that `update` was given, or says that they are missing."""
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
        scope: of the method.
        previous_params: what it kept, to call `grad_fn` there; None if it takes `prev_grads`.
        grad_fn: extra argument of `update`.
        prev_grads: extra argument of `update`.

    Returns:
        The gradient.

    Raises:
        TypeError: if the extra argument is missing.

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
        scope: of the method.
        params: where.
        full_grad_fn: extra argument of `update`.

    Returns:
        The gradient.

    Raises:
        TypeError: if the extra argument is missing.

    Example:
        >>> full_gradients(Scope("svrg"), jnp.array([3.0]), lambda x: 2 * x)
        Array([6.], dtype=float32)
    """
    full_gradients_at = required(full_grad_fn, "full_grad_fn", scope.method, "full_grad_fn=jax.grad(loss_of_all_data)")
    return inside(scope, full_gradients_at(params))


def recursion(gradients: Any, previous: Any, estimate: Any, weight: jax.typing.ArrayLike | Any) -> Any:
    """Moves an estimate along with the gradient and pulls it towards the gradient.

    Args:
        gradients: this batch's gradient at the parameters.
        previous: this batch's gradient at the previous parameters.
        estimate: the estimate of the previous step.
        weight: of the gradient, in [0, 1]: one number, or a tree of arrays.

    Returns:
        The new estimate, in the old one's dtypes. With weight 1 it is the gradient. It is NaN where it would be
        infinite, for it never forgets.

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
        lambda: nan_for_infinite(optax.tree.cast_like(full(), estimate)),
        lambda: recursion(gradients, previous(), estimate, 0.0),
    )


def is_due(count: jax.Array, every: jax.typing.ArrayLike) -> jax.Array:
    """Returns whether a step is the first of a period, which may be an array in an optimizer's state."""
    return count % jnp.asarray(every, count.dtype) == 0


def normalization() -> optax.GradientTransformation:
    """Divides updates by their global norm; zeros stay zeros."""
    return optax.normalize_by_update_norm(eps=1e-12)


def descent(build: Callable[..., Any], learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Puts plain gradient descent after an estimator: how entries make an optimizer of it."""
    return optax.chain(build(), optax.scale_by_learning_rate(learning_rate))
