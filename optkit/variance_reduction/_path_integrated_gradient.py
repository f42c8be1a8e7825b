"""The path-integrated gradient: a full gradient now and then, and between them the changes of the batches' gradients.

Fang, Li, Lin, Zhang, "SPIDER: Near-Optimal Non-Convex Optimization via Stochastic Path Integrated Differential
Estimator", 2018, arXiv:1807.01695. The rule is that of the paper.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_count
from optkit.core.injection import refuse_arrays
from optkit.core.trees import unmask_tree
from optkit.core.types import Mask
from optkit.method import Method, Paper
from optkit.variance_reduction._recursion import (
    Scope,
    descent,
    full_gradients,
    inside,
    is_due,
    kept_params,
    no_estimate,
    present_params,
    previous_gradients,
    recursion_with_refresh,
)

__all__ = ["path_integrated_gradient"]


class PathIntegratedGradientState(NamedTuple):
    """State of `path_integrated_gradient`; equal on all workers.

    Attributes:
        count: Number of updates so far.
        estimate: The estimate of the gradient, shaped and sharded like the parameters that are transformed, in float32
            at least.
        previous_params: The parameters of the last step, or None with `keep_params=False`.
    """

    count: jax.typing.ArrayLike
    estimate: optax.Updates
    previous_params: Any


def estimate_by_path(
    scope: Scope, anchor_every: int | jax.Array, *, keep_params: bool
) -> optax.GradientTransformationExtraArgs:
    """Builds the estimator for `path_integrated_gradient`, `spider` and `spider_boost`."""
    check_count("anchor_every", anchor_every)

    def init_fn(params):
        return PathIntegratedGradientState(
            count=jnp.zeros([], jnp.int32),
            estimate=no_estimate(scope, params),
            previous_params=kept_params(scope, params) if keep_params else None,
        )

    def update_fn(updates, state, params=None, *, grad_fn=None, prev_grads=None, full_grad_fn=None, **extra_args):
        del extra_args
        params = present_params(scope, params)
        estimate = recursion_with_refresh(  # Alg. 1, v^k
            is_due(state.count, anchor_every),
            state.estimate,
            lambda: full_gradients(scope, params, full_grad_fn),
            inside(scope, updates),
            lambda: previous_gradients(scope, state.previous_params, grad_fn, prev_grads),
        )
        new_state = PathIntegratedGradientState(
            count=optax.safe_increment(state.count),
            estimate=estimate,
            previous_params=params if keep_params else None,
        )
        return optax.tree.cast_like(unmask_tree(estimate, updates), updates), new_state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def path_integrated_gradient(
    anchor_every: int | jax.Array, *, keep_params: bool = True, applies_to: Mask | None = None
) -> optax.GradientTransformationExtraArgs:
    """Replaces the gradient by SPIDER's estimator: the last full gradient plus all changes of gradients since.

    The update rule, where g_last is the gradient of this batch at the last parameters::

        d = full_grad_fn(x)              # in the first step, then once in anchor_every steps
        d = d + g - g_last               # in all other steps
        u = d

    Use it before any preconditioner, when the data is finite and a gradient over all of it is affordable now and then.
    Avoid it when a full gradient is not available; use `recursive_momentum` there. Each step costs two gradients of one
    batch; once in `anchor_every` steps a gradient over all data replaces the second one. Both gradients of a batch must
    see the same randomness (dropout, augmentation).

    See `recursive_momentum` for how to clip the gradients and how to split a batch into several parts.

    Args:
        anchor_every: Number of steps from one full gradient to the next, at least 1. With n examples the papers use the
            root of n, for batches of the same size.
        keep_params: Whether the state keeps the last parameters. Default: True, and `update` needs
            `grad_fn=lambda point: jax.grad(loss)(point, batch)`. With False `update` needs `prev_grads` instead, the
            gradient of this batch at the last parameters.
        applies_to: Which leaves are transformed: a tree of booleans, or a function that makes it from the parameters.
            Default: all. The gradients of the other leaves pass through unchanged.

    Returns:
        A transformation with a `PathIntegratedGradientState`: two numbers per parameter, or one with
        `keep_params=False`. Its `update` needs the extra argument `full_grad_fn`, which returns the gradient over all
        data, and `grad_fn` or `prev_grads`.

    Raises:
        ValueError: If `anchor_every` is not a positive integer.
        TypeError: From `update`, if an extra argument is missing; and inside `optax.masked` or `optax.partition`,
            because the method needs the whole tree.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import optkit
        >>> data = jnp.array([1.0, 2.0, 6.0])
        >>> loss = lambda x, batch: jnp.mean((x - batch) ** 2) / 2
        >>> tx = optkit.path_integrated_gradient(anchor_every=3)
        >>> params = jnp.array(0.0)
        >>> grad_fn = lambda point: jax.grad(loss)(point, data[0])
        >>> full_grad_fn = lambda point: jax.grad(loss)(point, data)
        >>> tx.update(grad_fn(params), tx.init(params), params, grad_fn=grad_fn, full_grad_fn=full_grad_fn)[0]
        Array(-3., dtype=float32)

    Reference:
        arXiv:1807.01695
    """
    refuse_arrays(applies_to=applies_to)
    scope = Scope("path_integrated_gradient", applies_to)
    return estimate_by_path(scope, anchor_every, keep_params=keep_params)


SPIDER = Paper(
    "SPIDER: Near-Optimal Non-Convex Optimization via Stochastic Path Integrated Differential Estimator",
    "Fang et al.",
    2018,
    "1807.01695",
)


METHODS = (
    Method(
        name="path_integrated_gradient",
        factory=path_integrated_gradient,
        kind="transformation",
        compose=descent,
        summary="SPIDER's estimator: the last full gradient plus all changes of batch gradients since.",
        paper=SPIDER,
        also_known_as=("SPIDER", "stochastic path-integrated differential estimator"),
        example={"anchor_every": 2},
        grid=0.1,
        needs=("grad_fn", "full_grad_fn"),
        golden="spider",
    ),
)
