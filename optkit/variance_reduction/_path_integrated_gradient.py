"""The path-integrated gradient: a full gradient now and then, and in between what each batch's gradient changed by.

Fang, Li, Lin, Zhang, "SPIDER: Near-Optimal Non-Convex Optimization via Stochastic Path Integrated Differential
Estimator", 2018, arXiv:1807.01695. The rule is the paper's.
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
        count: number of updates so far.
        estimate: the estimate of the gradient, shaped and sharded like the parameters that it applies to, in float32 at
            least.
        previous_params: the parameters of the last step, or None with `keep_params=False`.
    """

    count: jax.typing.ArrayLike
    estimate: optax.Updates
    previous_params: Any


def estimate_by_path(
    scope: Scope, anchor_every: int | jax.Array, *, keep_params: bool
) -> optax.GradientTransformationExtraArgs:
    """The estimator, for `path_integrated_gradient`, `spider` and `spider_boost`."""
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

    `update` is called with `full_grad_fn` (the gradient over all data, evaluated once in `anchor_every` steps, the
    first included) and, for all other steps, `grad_fn` or `prev_grads`. It stands in front of any preconditioner. This
    batch's two gradients must see the same randomness (dropout, augmentation). Do not take it where no full gradient
    can be had: for that there is `recursive_momentum`.

    For clipping, and for batches in several parts, see `recursive_momentum`.

    Args:
        anchor_every: number of steps from one full gradient to the next, at least 1; with n examples the papers take
            the root of n, for batches of the same size.
        keep_params: whether the state keeps the last parameters and `update` is called with
            `grad_fn=lambda point: jax.grad(loss)(point, batch)` (default); otherwise it is called with `prev_grads`,
            this batch's gradient at the last parameters.
        applies_to: tree of booleans, or a function that makes it from the parameters: the leaves that are estimated.
            The gradients of the others pass through. All by default.

    Returns:
        A transformation with a `PathIntegratedGradientState`: two numbers a parameter, one with `keep_params=False`.

    Raises:
        ValueError: if `anchor_every` is not a positive integer.
        TypeError: from `update` without an extra argument, and inside `optax.masked` or `optax.partition`.

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
        Fang, Li, Lin, Zhang, "SPIDER: Near-Optimal Non-Convex Optimization via Stochastic Path Integrated Differential
        Estimator", 2018, arXiv:1807.01695.
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
        summary="The last full gradient plus all changes of gradients since: SPIDER's estimator.",
        paper=SPIDER,
        also_known_as=("SPIDER", "stochastic path-integrated differential estimator"),
        example={"anchor_every": 2},
        grid=0.1,
        needs=("grad_fn", "full_grad_fn"),
        golden="spider",
    ),
)
