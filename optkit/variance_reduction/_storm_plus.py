"""STORM+: STORM without parameters to tune.

Levy, Kavis, Cevher, "STORM+: Fully Adaptive SGD with Momentum for Nonconvex Optimization", 2021, arXiv:2111.01040. The
rule is that of the paper.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_range
from optkit.core.injection import refuse_arrays
from optkit.core.non_finite import nan_for_infinite
from optkit.core.precision import in_float32, scalar_dtype
from optkit.core.trees import only, unmask_tree
from optkit.core.types import Mask
from optkit.method import Method, Paper
from optkit.variance_reduction._recursion import (
    Scope,
    inside,
    kept_params,
    no_estimate,
    present_params,
    previous_gradients,
    recursion,
)

__all__ = ["scale_by_storm_plus", "storm_plus"]


class ScaleByStormPlusState(NamedTuple):
    """State of `scale_by_storm_plus`; equal on all workers.

    Attributes:
        estimate: The estimate of the gradient, shaped and sharded like the parameters that are transformed, in float32
            at least.
        previous_params: The parameters of the last step, or None with `keep_params=False`.
        sum_of_squares: Sum of the squared norms of all gradients.
        root: Inverse of the rate: the cube root of the sum, over all steps, of the squared norm of the estimate over
            the weight of the next gradient. The sum itself would overflow.
    """

    estimate: optax.Updates
    previous_params: Any
    sum_of_squares: jax.Array
    root: jax.Array


def _cube_root_of_cubes(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the cube root of `x**3 + y**3`, for numbers that are not negative, without overflow."""
    largest = jnp.maximum(x, y)
    scale = jnp.where(largest > 0, largest, 1)
    return largest * jnp.cbrt((x / scale) ** 3 + (y / scale) ** 3)


def _scale_by_storm_plus(
    scope: Scope, initial_accumulator_value: jax.typing.ArrayLike, *, keep_params: bool
) -> optax.GradientTransformationExtraArgs:
    """Builds the rule for `scale_by_storm_plus` and `storm_plus`."""
    check_range("initial_accumulator_value", initial_accumulator_value, 0.0)

    def init_fn(params):
        estimate = no_estimate(scope, params)
        dtype = scalar_dtype(estimate)
        return ScaleByStormPlusState(
            estimate=estimate,
            previous_params=kept_params(scope, params) if keep_params else None,
            sum_of_squares=jnp.zeros([], dtype),
            root=jnp.cbrt(jnp.asarray(initial_accumulator_value, dtype)),
        )

    def update_fn(updates, state, params=None, *, grad_fn=None, prev_grads=None, **extra_args):
        del extra_args
        gradients = inside(scope, updates)
        previous = previous_gradients(scope, state.previous_params, grad_fn, prev_grads)
        weight = jnp.cbrt(1 + state.sum_of_squares) ** -2  # a_t, which is 1 at first
        estimate = recursion(gradients, previous, state.estimate, weight)  # d_t
        sum_of_squares = state.sum_of_squares + optax.tree.norm(gradients, squared=True)
        sum_of_squares = nan_for_infinite(sum_of_squares.astype(state.sum_of_squares.dtype))
        # The summand |d_t|^2 / a_{t+1} is the cube of this number.
        summand_root = jnp.cbrt(optax.tree.norm(estimate) * jnp.cbrt(1 + sum_of_squares)) ** 2
        root = nan_for_infinite(_cube_root_of_cubes(state.root, summand_root))  # 1 / eta_t
        new_state = ScaleByStormPlusState(
            estimate=estimate,
            previous_params=present_params(scope, params) if keep_params else None,
            sum_of_squares=sum_of_squares,
            root=root.astype(state.root.dtype),
        )
        step = jax.tree.map(lambda d: d / jnp.where(root == 0, 1, root), estimate)  # eta_t d_t
        return optax.tree.cast_like(unmask_tree(step, updates), updates), new_state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def scale_by_storm_plus(
    initial_accumulator_value: jax.typing.ArrayLike = 0.0,
    *,
    keep_params: bool = True,
    applies_to: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Replaces the gradient by the step of STORM+: recursive momentum times a rate, both set by the gradients so far.

    The update rule, where g_last is the gradient of this batch at the last parameters, s begins at 0 and r at
    `initial_accumulator_value`::

        a = (1 + s)**(-2/3)
        d = g + (1 - a) * (d - g_last)
        s = s + |g|**2
        r = r + |d|**2 * (1 + s)**(2/3)
        u = d / r**(1/3)

    Use it when other transformations follow the step of STORM+; the last one is `optax.scale_by_learning_rate`. Avoid
    it before a preconditioner; use `recursive_momentum` there. Each step costs two gradients of one batch. Both
    gradients of a batch must see the same randomness (dropout, augmentation).

    See `recursive_momentum` for how to clip the gradients and how to split a batch into several parts.

    Args:
        initial_accumulator_value: Start value of the sum of squared estimates, at least 0. Default: 0, as in the paper.
            With 0 the first step depends little on the size of the gradient; 1 makes the first steps shorter if
            gradients are small.
        keep_params: See `recursive_momentum`. Default: True.
        applies_to: Which leaves are transformed: a tree of booleans, or a function that makes it from the parameters.
            Default: all. The gradients of the other leaves pass through unchanged. The norms are those of the
            transformed leaves.

    Returns:
        A transformation with a `ScaleByStormPlusState`: two numbers per parameter, or one with `keep_params=False`.

    Raises:
        ValueError: If a hyperparameter is out of its range.
        TypeError: From `update`, if the extra argument is missing; and inside `optax.masked` or `optax.partition`,
            because the method needs the whole tree.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.scale_by_storm_plus(initial_accumulator_value=8.0)
        >>> params = jnp.zeros(2)
        >>> tx.update(params, tx.init(params), params, grad_fn=lambda point: point)[1].root
        Array(2., dtype=float32)

    Reference:
        arXiv:2111.01040
    """
    refuse_arrays(applies_to=applies_to)
    scope = Scope("scale_by_storm_plus", applies_to)
    return _scale_by_storm_plus(scope, initial_accumulator_value, keep_params=keep_params)


def storm_plus(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    initial_accumulator_value: jax.typing.ArrayLike = 0.0,
    *,
    keep_params: bool = True,
    trainable: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    """STORM+: recursive momentum whose weight and rate follow from the gradients so far.

    The update rule, where u comes from `scale_by_storm_plus`::

        x = x - lr * u

    Use it when a second gradient of each batch is affordable and nothing should be tuned. Avoid it without an
    `initial_accumulator_value` when gradients are tiny, because the first step is then much longer than they are. Each
    step costs two gradients of one batch. Both gradients of a batch must see the same randomness (dropout,
    augmentation).

    See `recursive_momentum` for how to clip the gradients and how to split a batch into several parts.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. Default: 1, as in the paper. It is a factor
            on the step.
        initial_accumulator_value: See `scale_by_storm_plus`. Default: 0.
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
        >>> tx = optkit.storm_plus()
        >>> params = jnp.array([2.0, 4.0])
        >>> updates, state = tx.update(params, tx.init(params), params, grad_fn=lambda point: point)
        >>> optax.apply_updates(params, updates).round(2)
        Array([1.63, 3.25], dtype=float32)

    Reference:
        arXiv:2111.01040
    """
    refuse_arrays(trainable=trainable)
    scope = Scope("storm_plus", trainable, "trainable")
    direction = _scale_by_storm_plus(scope, initial_accumulator_value, keep_params=keep_params)
    return in_float32(optax.chain(only(direction, trainable), optax.scale_by_learning_rate(learning_rate)))


METHODS = (
    Method(
        name="storm_plus",
        factory=storm_plus,
        kind="optimizer",
        summary="STORM whose weight and rate follow from the gradients so far.",
        paper=Paper(
            "STORM+: Fully Adaptive SGD with Momentum for Nonconvex Optimization",
            "Levy, Kavis, Cevher",
            2021,
            "2111.01040",
        ),
        also_known_as=("STORM+", "STORM plus"),
        parts=(scale_by_storm_plus,),
        example={"learning_rate": 1.0},
        grid=1.0,
        needs=("grad_fn",),
    ),
)
