"""STORM+: STORM without parameters to tune.

Levy, Kavis, Cevher, "STORM+: Fully Adaptive SGD with Momentum for Nonconvex Optimization", 2021, arXiv:2111.01040.
The rule is the paper's.
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
        estimate: the estimate of the gradient, shaped and sharded like the parameters that it applies to, in float32 at
            least.
        previous_params: the parameters of the last step, or None with `keep_params=False`.
        sum_of_squares: sum of the squared norms of all gradients.
        root: cube root of the sum of the squared norms of all estimates, each over the next gradient's weight: the
            inverse of the rate. The sum itself would overflow.
    """

    estimate: optax.Updates
    previous_params: Any
    sum_of_squares: jax.Array
    root: jax.Array


def _cube_root_of_cubes(x: jax.Array, y: jax.Array) -> jax.Array:
    """The cube root of `x**3 + y**3`, for numbers that are not negative, without overflow."""
    largest = jnp.maximum(x, y)
    scale = jnp.where(largest > 0, largest, 1)
    return largest * jnp.cbrt((x / scale) ** 3 + (y / scale) ** 3)


def _scale_by_storm_plus(
    scope: Scope, initial_accumulator_value: jax.typing.ArrayLike, *, keep_params: bool
) -> optax.GradientTransformationExtraArgs:
    """The rule, for `scale_by_storm_plus` and `storm_plus`."""
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
    """Replaces the gradient by STORM+'s step: recursive momentum times a rate, both from the gradients so far.

    For clipping, and for batches in several parts, see `recursive_momentum`.

    Args:
        initial_accumulator_value: what the sum of squared estimates begins with, at least 0; default 0, the paper's.
            With 0 the first step depends little on the gradient's size; 1 holds it back where gradients are small.
        keep_params: as in `recursive_momentum`.
        applies_to: as in `recursive_momentum`; norms are those of these leaves.

    Returns:
        A transformation with a `ScaleByStormPlusState`: two numbers a parameter, one with `keep_params=False`.

    Raises:
        ValueError: if a hyperparameter is out of its range.
        TypeError: from `update` without the extra argument, and inside `optax.masked` or `optax.partition`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.scale_by_storm_plus(initial_accumulator_value=8.0)
        >>> params = jnp.zeros(2)
        >>> tx.update(params, tx.init(params), params, grad_fn=lambda point: point)[1].root
        Array(2., dtype=float32)

    Reference:
        Levy, Kavis, Cevher, "STORM+: Fully Adaptive SGD with Momentum for Nonconvex Optimization", 2021,
        arXiv:2111.01040.
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

    Each step takes two gradients on one batch, with the same randomness (dropout, augmentation) in both. Do not take it
    where gradients are tiny without an `initial_accumulator_value`: the first step is much longer than they are.

    For clipping, and for batches in several parts, see `recursive_momentum`.

    Args:
        learning_rate: a factor of the steps, a positive number or a schedule; default 1, the paper's.
        initial_accumulator_value: what the sum of squared estimates begins with, at least 0; default 0, the paper's.
        keep_params: as in `recursive_momentum`.
        trainable: tree of booleans, or a function that makes it from the parameters: the leaves that are trained. The
            others get updates of zero. All by default.

    Returns:
        An optimizer; its state is two numbers a parameter, one with `keep_params=False`.

    Raises:
        ValueError: if a hyperparameter is out of its range.
        TypeError: from `update` without the extra argument, and inside `optax.masked` or `optax.partition`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.storm_plus()
        >>> params = jnp.array([2.0, 4.0])
        >>> updates, state = tx.update(params, tx.init(params), params, grad_fn=lambda point: point)
        >>> optax.apply_updates(params, updates).round(2)
        Array([1.63, 3.25], dtype=float32)

    Reference:
        Levy, Kavis, Cevher, "STORM+: Fully Adaptive SGD with Momentum for Nonconvex Optimization", 2021,
        arXiv:2111.01040.
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
