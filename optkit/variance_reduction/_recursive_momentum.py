"""Recursive momentum: an average of gradients that moves along with the gradient.

Cutkosky, Orabona, "Momentum-Based Variance Reduction in Non-Convex SGD", 2019, arXiv:1905.10018. Algorithm 1 with a
constant weight, which others call MVR. With `a = 1 - b1` it is the exact, unclipped MARS correction with gamma 1,
followed by its momentum.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_range
from optkit.core.injection import refuse_arrays
from optkit.core.trees import unmask_tree
from optkit.core.types import Mask
from optkit.method import Method, Paper
from optkit.variance_reduction._recursion import (
    Scope,
    descent,
    inside,
    kept_params,
    no_estimate,
    present_params,
    previous_gradients,
    recursion,
)

__all__ = ["recursive_momentum"]


class RecursiveMomentumState(NamedTuple):
    """State of `recursive_momentum`; equal on all workers.

    Attributes:
        count: Number of updates so far.
        estimate: The estimate of the gradient, shaped and sharded like the parameters that are transformed, in float32
            at least.
        previous_params: The parameters of the last step, or None with `keep_params=False`.
    """

    count: jax.typing.ArrayLike
    estimate: optax.Updates
    previous_params: Any


def recursive_momentum(
    a: jax.typing.ArrayLike = 0.1, *, keep_params: bool = True, applies_to: Mask | None = None
) -> optax.GradientTransformationExtraArgs:
    """Replaces the gradient by an exponential average that is corrected for the steps taken since.

    The update rule, where g_last is the gradient of this batch at the last parameters. In the first step d = g::

        d = g + (1 - a) * (d - g_last)
        u = d

    A plain average of past gradients lags behind the parameters. Here the average first moves by g - g_last, the change
    of this batch's gradient in the last step, so that only the noise is averaged.

    Use it before any preconditioner, when gradients are noisy and a second gradient of each batch is affordable. Avoid
    it when both gradients cannot see the same randomness (dropout, augmentation), because their difference is then
    noise. Each step costs two gradients of one batch.

    Transformations that come before it in a chain, such as clipping, do not see the gradients of `grad_fn`: clip in
    `preprocess_gradients` instead. Inside `optax.MultiSteps`, `grad_fn` must return the gradient of all parts of the
    batch together and is called once for each part; it is better to add the parts up with `jax.lax.scan`, as in the
    second example.

    Args:
        a: Weight of the gradient, in [0, 1]. Default: 0.1. 1 returns the gradient itself; 0 never forgets an error.
        keep_params: Whether the state keeps the last parameters. Default: True, and `update` needs
            `grad_fn=lambda point: jax.grad(loss)(point, batch)`. With False `update` needs `prev_grads` instead, the
            gradient of this batch at the last parameters.
        applies_to: Which leaves are transformed: a tree of booleans, or a function that makes it from the parameters.
            Default: all. The gradients of the other leaves pass through unchanged.

    Returns:
        A transformation with a `RecursiveMomentumState`: two numbers per parameter, or one with `keep_params=False`.

    Raises:
        ValueError: If `a` is outside [0, 1].
        TypeError: From `update`, if the extra argument is missing; and inside `optax.masked` or `optax.partition`,
            because the method needs the whole tree.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import optax, optkit
        >>> loss = lambda x, batch: jnp.mean((x - batch) ** 2) / 2
        >>> tx = optax.chain(optkit.recursive_momentum(0.5), optax.scale_by_learning_rate(1.0))
        >>> params = jnp.array(0.0)
        >>> state = tx.init(params)
        >>> for batch in jnp.array([1.0, 2.0]):
        ...     grad_fn = lambda point: jax.grad(loss)(point, batch)
        ...     updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
        ...     params = optax.apply_updates(params, updates)
        >>> params
        Array(1.5, dtype=float32)

        >>> parts = jnp.array([[1.0, 3.0], [2.0, 6.0]])  # of one batch
        >>> def grad_fn(point):
        ...     def add(total, part):
        ...         return optax.tree.add(total, jax.grad(loss)(point, part)), None
        ...
        ...     total, _ = jax.lax.scan(add, optax.tree.zeros_like(point), parts)
        ...     return optax.tree.scale(1 / len(parts), total)
        >>> updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
        >>> optax.apply_updates(params, updates)
        Array(2.25, dtype=float32)

    Reference:
        arXiv:1905.10018
    """
    refuse_arrays(applies_to=applies_to)
    check_range("a", a, 0.0, 1.0)
    scope = Scope("recursive_momentum", applies_to)

    def init_fn(params):
        return RecursiveMomentumState(
            count=jnp.zeros([], jnp.int32),
            estimate=no_estimate(scope, params),
            previous_params=kept_params(scope, params) if keep_params else None,
        )

    def update_fn(updates, state, params=None, *, grad_fn=None, prev_grads=None, **extra_args):
        del extra_args
        gradients = inside(scope, updates)
        previous = previous_gradients(scope, state.previous_params, grad_fn, prev_grads)
        weight = jnp.where(state.count == 0, 1.0, a)  # Alg. 1, d_1
        estimate = recursion(gradients, previous, state.estimate, weight)  # Alg. 1, d_{t+1}
        new_state = RecursiveMomentumState(
            count=optax.safe_increment(state.count),
            estimate=estimate,
            previous_params=present_params(scope, params) if keep_params else None,
        )
        return optax.tree.cast_like(unmask_tree(estimate, updates), updates), new_state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


STORM = Paper("Momentum-Based Variance Reduction in Non-Convex SGD", "Cutkosky, Orabona", 2019, "1905.10018")


METHODS = (
    Method(
        name="recursive_momentum",
        factory=recursive_momentum,
        kind="transformation",
        compose=descent,
        summary="STORM's estimator with a constant weight: a momentum that is corrected for the steps taken since.",
        paper=STORM,
        also_known_as=("MVR", "momentum-based variance reduction", "STORM with constant weight"),
        grid=0.1,
        tunable={"a": (0.01, 1.0, "log")},
        needs=("grad_fn",),
        golden="storm",
    ),
)
