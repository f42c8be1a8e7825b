"""STORM: recursive momentum whose learning rate and weight shrink as gradients accumulate.

Cutkosky, Orabona, "Momentum-Based Variance Reduction in Non-Convex SGD", 2019, arXiv:1905.10018. Algorithm 1. The rule
is that of the paper. The authors' code has another rule, which is in `storm_coordinatewise.py`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_range
from optkit.core.injection import refuse_arrays
from optkit.core.non_finite import nan_for_infinite
from optkit.core.precision import in_float32, scalar_dtype
from optkit.core.schedules import value_at
from optkit.core.trees import only, unmask_tree
from optkit.core.types import Mask
from optkit.method import Method
from optkit.variance_reduction._recursion import (
    Scope,
    inside,
    kept_params,
    no_estimate,
    present_params,
    previous_gradients,
    recursion,
)
from optkit.variance_reduction._recursive_momentum import STORM

__all__ = ["scale_by_storm", "storm"]


class ScaleByStormState(NamedTuple):
    """State of `scale_by_storm`; equal on all workers.

    Attributes:
        count: Number of updates so far.
        estimate: The estimate of the gradient, shaped and sharded like the parameters that are transformed, in float32
            at least.
        previous_params: The parameters of the last step, or None with `keep_params=False`.
        sum_of_squares: Sum of the squared norms of all gradients.
        weight: Weight of the next gradient in the estimate, 1 at first.
    """

    count: jax.typing.ArrayLike
    estimate: optax.Updates
    previous_params: Any
    sum_of_squares: jax.Array
    weight: jax.Array


def _scale_by_storm(
    scope: Scope,
    learning_rate: optax.ScalarOrSchedule,
    w: jax.typing.ArrayLike,
    c: jax.typing.ArrayLike,
    *,
    keep_params: bool,
) -> optax.GradientTransformationExtraArgs:
    """Builds the rule for `scale_by_storm` and `storm`."""
    check_range("w", w, 0.0, low_open=True)
    check_range("c", c, 0.0)

    def init_fn(params):
        estimate = no_estimate(scope, params)
        dtype = scalar_dtype(estimate)
        return ScaleByStormState(
            count=jnp.zeros([], jnp.int32),
            estimate=estimate,
            previous_params=kept_params(scope, params) if keep_params else None,
            sum_of_squares=jnp.zeros([], dtype),
            weight=jnp.ones([], dtype),
        )

    def update_fn(updates, state, params=None, *, grad_fn=None, prev_grads=None, **extra_args):
        del extra_args
        gradients = inside(scope, updates)
        previous = previous_gradients(scope, state.previous_params, grad_fn, prev_grads)
        estimate = recursion(gradients, previous, state.estimate, state.weight)  # Alg. 1, d_{t+1}
        sum_of_squares = state.sum_of_squares + optax.tree.norm(gradients, squared=True)  # Alg. 1, sum of G_i^2
        sum_of_squares = nan_for_infinite(sum_of_squares.astype(state.sum_of_squares.dtype))
        rate = value_at(learning_rate, state.count)
        step_size = jnp.asarray(rate, sum_of_squares.dtype) / jnp.cbrt(w + sum_of_squares)  # Alg. 1, eta_t
        weight = jnp.minimum(1.0, c * step_size**2)  # Alg. 1, a_{t+1}; the paper assumes at most 1
        new_state = ScaleByStormState(
            count=optax.safe_increment(state.count),
            estimate=estimate,
            previous_params=present_params(scope, params) if keep_params else None,
            sum_of_squares=sum_of_squares,
            weight=weight.astype(state.weight.dtype),
        )
        step = jax.tree.map(lambda d: step_size * d, estimate)
        return optax.tree.cast_like(unmask_tree(step, updates), updates), new_state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def scale_by_storm(
    learning_rate: optax.ScalarOrSchedule = 0.1,
    w: jax.typing.ArrayLike = 0.1,
    c: jax.typing.ArrayLike = 100.0,
    *,
    keep_params: bool = True,
    applies_to: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Replaces the gradient by the step of STORM: its recursive momentum times its adaptive rate.

    The update rule, where g_last is the gradient of this batch at the last parameters, and a begins at 1::

        d = g + (1 - a) * (d - g_last)
        s = s + |g|**2
        rate = learning_rate / (w + s)**(1/3)
        a = min(1, c * rate**2)          # for the next step
        u = rate * d

    Use it when other transformations follow STORM's step. Only the sign is missing: add `optax.scale(-1.0)` and no
    further learning rate, because the weight of the momentum depends on the rate. Avoid it before a preconditioner; use
    `recursive_momentum` there. Each step costs two gradients of one batch. Both gradients of a batch must see the same
    randomness (dropout, augmentation).

    See `recursive_momentum` for how to clip the gradients and how to split a batch into several parts.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. Default: 0.1. It is the paper's k.
        w: The paper's w, which bounds the first rates, above 0. Default: 0.1.
        c: Weight of the next gradient in units of the squared rate, at least 0. Default: 100.
        keep_params: See `recursive_momentum`. Default: True.
        applies_to: Which leaves are transformed: a tree of booleans, or a function that makes it from the parameters.
            Default: all. The gradients of the other leaves pass through unchanged. The norms are those of the
            transformed leaves.

    Returns:
        A transformation with a `ScaleByStormState`: two numbers per parameter, or one with `keep_params=False`.

    Raises:
        ValueError: If a hyperparameter is out of its range.
        TypeError: From `update`, if the extra argument is missing; and inside `optax.masked` or `optax.partition`,
            because the method needs the whole tree.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.scale_by_storm(1.0, w=2.0)
        >>> params = jnp.array([1.0, -1.0, 2.0])
        >>> tx.update(params, tx.init(params), params, grad_fn=lambda point: point)[0]  # g / (2 + 6)^(1/3)
        Array([ 0.5, -0.5,  1. ], dtype=float32)

    Reference:
        arXiv:1905.10018
    """
    refuse_arrays(applies_to=applies_to)
    return _scale_by_storm(Scope("scale_by_storm", applies_to), learning_rate, w, c, keep_params=keep_params)


def storm(
    learning_rate: optax.ScalarOrSchedule = 0.1,
    w: jax.typing.ArrayLike = 0.1,
    c: jax.typing.ArrayLike = 100.0,
    *,
    keep_params: bool = True,
    trainable: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    """STORM as in its paper: recursive momentum with rates that shrink as gradients accumulate.

    The update rule, where g_last is the gradient of this batch at the last parameters, and a begins at 1::

        d = g + (1 - a) * (d - g_last)
        s = s + |g|**2
        rate = learning_rate / (w + s)**(1/3)
        a = min(1, c * rate**2)          # for the next step
        x = x - rate * d

    Use it when a second gradient of each batch is affordable and the learning rate should not need a schedule. Avoid it
    for long training of networks unless `learning_rate` is larger, because its rates only ever shrink, as those of
    AdaGrad do. Each step costs two gradients of one batch. Both gradients of a batch must see the same randomness
    (dropout, augmentation).

    See `recursive_momentum` for how to clip the gradients and how to split a batch into several parts.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. Default: 0.1. It is the paper's k: the rate
            is this over the cube root of `w` plus the sum of all squared gradient norms.
        w: Bounds the first rates, above 0. Default: 0.1.
        c: Weight of the next gradient in the momentum in units of the squared rate, at least 0. Default: 100. It should
            grow with the square of the smoothness of the loss; the paper tunes it.
        keep_params: See `recursive_momentum`. Default: True.
        trainable: Which leaves are trained: a tree of booleans, or a function that makes it from the parameters.
            Default: all. The other leaves get updates of zero.

    Returns:
        An optimizer. Its state holds two numbers per parameter, or one with `keep_params=False`.

    Raises:
        ValueError: If a hyperparameter is out of its range.
        TypeError: From `update`, if the extra argument is missing; and inside `optax.masked` or `optax.partition`,
            because the method needs the whole tree.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.storm(1.0, w=2.0)
        >>> params = jnp.array([1.0, -1.0, 2.0])
        >>> updates, state = tx.update(params, tx.init(params), params, grad_fn=lambda point: point)
        >>> optax.apply_updates(params, updates)
        Array([ 0.5, -0.5,  1. ], dtype=float32)

    Reference:
        arXiv:1905.10018
    """
    refuse_arrays(trainable=trainable)
    direction = _scale_by_storm(Scope("storm", trainable, "trainable"), learning_rate, w, c, keep_params=keep_params)
    return in_float32(optax.chain(only(direction, trainable), optax.scale(-1.0)))


METHODS = (
    Method(
        name="storm",
        factory=storm,
        kind="optimizer",
        summary="STORM as in its paper: recursive momentum with rates that shrink as gradients accumulate.",
        paper=STORM,
        also_known_as=("stochastic recursive momentum", "momentum-based variance reduction"),
        parts=(scale_by_storm,),
        example={"learning_rate": 0.1},
        grid=0.3,
        needs=("grad_fn",),
    ),
)
