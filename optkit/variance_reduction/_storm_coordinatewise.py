"""STORM as in its authors' code: rates and weights for every coordinate.

Cutkosky, Orabona, "Momentum-Based Variance Reduction in Non-Convex SGD", 2019, arXiv:1905.10018. The rule is that of
their code (google-research, storm_optimizer.py). It parts from the paper, which `storm.py` follows: sums of squares,
rates and weights are those of each coordinate; the weight comes from the present rate, not from the last one; the
estimate is clipped to the largest gradient norm of its parameter so far; the first step has no rule of its own, and so
is shorter where its weight is below 1.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_range
from optkit.core.complex_numbers import refuse_complex
from optkit.core.injection import refuse_arrays
from optkit.core.non_finite import nan_for_infinite
from optkit.core.precision import in_float32
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

__all__ = ["scale_by_storm_coordinatewise", "storm_coordinatewise"]


class ScaleByStormCoordinatewiseState(NamedTuple):
    """State of `scale_by_storm_coordinatewise`; equal on all workers.

    Attributes:
        count: number of updates so far.
        estimate: the estimate of the gradient, shaped and sharded like the parameters that it applies to, in float32 at
            least.
        previous_params: the parameters of the last step, or None with `keep_params=False`.
        sum_of_squares: sum of all squared gradients, shaped and sharded like the parameters that it applies to.
        largest_norm: for each of these parameters, the largest norm of its gradients so far, a scalar.
    """

    count: jax.typing.ArrayLike
    estimate: optax.Updates
    previous_params: Any
    sum_of_squares: optax.Updates
    largest_norm: Any


def _scale_by_storm_coordinatewise(
    scope: Scope,
    learning_rate: optax.ScalarOrSchedule,
    g_max: jax.typing.ArrayLike,
    momentum: jax.typing.ArrayLike,
    w: jax.typing.ArrayLike,
    *,
    keep_params: bool,
) -> optax.GradientTransformationExtraArgs:
    """The rule, for `scale_by_storm_coordinatewise` and `storm_coordinatewise`."""
    check_range("g_max", g_max, 0.0, low_open=True)
    check_range("momentum", momentum, 0.0)
    check_range("w", w, 0.0)

    def init_fn(params):
        refuse_complex(params, scope.method, functions=True)
        estimate = no_estimate(scope, params)
        return ScaleByStormCoordinatewiseState(
            count=jnp.zeros([], jnp.int32),
            estimate=estimate,
            previous_params=kept_params(scope, params) if keep_params else None,
            sum_of_squares=jax.tree.map(lambda d: jnp.full_like(d, g_max**3), estimate),
            largest_norm=jax.tree.map(lambda d: jnp.full([], g_max, d.dtype), estimate),
        )

    def update_fn(updates, state, params=None, *, grad_fn=None, prev_grads=None, **extra_args):
        del extra_args
        gradients = inside(scope, updates)
        previous = previous_gradients(scope, state.previous_params, grad_fn, prev_grads)
        previous = jax.tree.map(lambda p, g: jnp.where(state.count == 0, g, p), previous, gradients)
        largest_norm = jax.tree.map(
            lambda largest, g: nan_for_infinite(jnp.maximum(largest, optax.tree.norm(g))), state.largest_norm, gradients
        )
        sum_of_squares = jax.tree.map(lambda s, g: s + g**2, state.sum_of_squares, gradients)
        rate = value_at(learning_rate, state.count)
        step_sizes = jax.tree.map(
            lambda s: jnp.asarray(rate, s.dtype) / jnp.cbrt(w + s), sum_of_squares
        )  # eta of the code
        weights = jax.tree.map(lambda s: jnp.minimum(1.0, momentum * s**2), step_sizes)  # beta of the code
        estimate = recursion(gradients, previous, state.estimate, weights)
        estimate = jax.tree.map(lambda d, largest: jnp.clip(d, -largest, largest), estimate, largest_norm)
        new_state = ScaleByStormCoordinatewiseState(
            count=optax.safe_increment(state.count),
            estimate=estimate,
            previous_params=present_params(scope, params) if keep_params else None,
            sum_of_squares=sum_of_squares,
            largest_norm=largest_norm,
        )
        step = jax.tree.map(jnp.multiply, step_sizes, estimate)
        return optax.tree.cast_like(unmask_tree(step, updates), updates), new_state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def scale_by_storm_coordinatewise(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    g_max: jax.typing.ArrayLike = 0.01,
    momentum: jax.typing.ArrayLike = 100.0,
    w: jax.typing.ArrayLike = 10.0,
    *,
    keep_params: bool = True,
    applies_to: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Replaces the gradient by the step of the STORM authors' code, with a rate for every coordinate.

    For clipping, and for batches in several parts, see `recursive_momentum`.

    Args:
        learning_rate: a positive number or a schedule; default 1. It is a factor of the rate, on which the weight of
            the gradient depends.
        g_max: a guess of the largest gradient, positive; default 0.01. Every sum of squares begins with its cube.
        momentum: the gradient's weight in the estimate in units of the squared rate, at least 0; default 100.
        w: added to the sums of squares, at least 0; default 10.
        keep_params: as in `recursive_momentum`.
        applies_to: as in `recursive_momentum`.

    Returns:
        A transformation with a `ScaleByStormCoordinatewiseState`: three numbers a parameter, two with
        `keep_params=False`.

    Raises:
        ValueError: if a hyperparameter is out of its range.
        TypeError: from `update` without the extra argument, and inside `optax.masked` or `optax.partition`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.scale_by_storm_coordinatewise(g_max=1.0, w=6.0)
        >>> params = jnp.array([1.0, -1.0])
        >>> tx.update(params, tx.init(params), params, grad_fn=lambda point: point)[0]  # g / (6 + 1 + 1)^(1/3)
        Array([ 0.5, -0.5], dtype=float32)

    Reference:
        Cutkosky, Orabona, "Momentum-Based Variance Reduction in Non-Convex SGD", 2019, arXiv:1905.10018; its code in
        google-research, storm_optimizer.py.
    """
    refuse_arrays(applies_to=applies_to)
    scope = Scope("scale_by_storm_coordinatewise", applies_to)
    return _scale_by_storm_coordinatewise(scope, learning_rate, g_max, momentum, w, keep_params=keep_params)


def storm_coordinatewise(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    g_max: jax.typing.ArrayLike = 0.01,
    momentum: jax.typing.ArrayLike = 100.0,
    w: jax.typing.ArrayLike = 10.0,
    *,
    keep_params: bool = True,
    trainable: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    """STORM as in its authors' code: a rate for every coordinate, and an estimate that is clipped.

    Each step takes two gradients on one batch, with the same randomness (dropout, augmentation) in both. Do not take it
    for the paper's guarantee: that is for `storm`.

    For clipping, and for batches in several parts, see `recursive_momentum`.

    Args:
        learning_rate: a positive number or a schedule; default 1.
        g_max: a guess of the largest gradient, positive; default 0.01.
        momentum: the gradient's weight in the estimate in units of the squared rate, at least 0; default 100.
        w: added to the sums of squares, at least 0; default 10 (the code calls it eta).
        keep_params: as in `recursive_momentum`.
        trainable: tree of booleans, or a function that makes it from the parameters: the leaves that are trained. The
            others get updates of zero. All by default.

    Returns:
        An optimizer; its state is three numbers a parameter, two with `keep_params=False`.

    Raises:
        ValueError: if a hyperparameter is out of its range.
        TypeError: from `update` without the extra argument, and inside `optax.masked` or `optax.partition`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.storm_coordinatewise(g_max=1.0, w=6.0)
        >>> params = jnp.array([1.0, -1.0])
        >>> updates, state = tx.update(params, tx.init(params), params, grad_fn=lambda point: point)
        >>> optax.apply_updates(params, updates)
        Array([ 0.5, -0.5], dtype=float32)

    Reference:
        Cutkosky, Orabona, "Momentum-Based Variance Reduction in Non-Convex SGD", 2019, arXiv:1905.10018; its code in
        google-research, storm_optimizer.py.
    """
    refuse_arrays(trainable=trainable)
    scope = Scope("storm_coordinatewise", trainable, "trainable")
    direction = _scale_by_storm_coordinatewise(scope, learning_rate, g_max, momentum, w, keep_params=keep_params)
    return in_float32(optax.chain(only(direction, trainable), optax.scale(-1.0)))


METHODS = (
    Method(
        name="storm_coordinatewise",
        factory=storm_coordinatewise,
        kind="optimizer",
        summary="STORM as in its authors' code: a rate for every coordinate, and a clipped estimate.",
        paper=STORM,
        also_known_as=("storm_optimizer",),
        parts=(scale_by_storm_coordinatewise,),
        example={"learning_rate": 0.25},
        grid=0.3,
        needs=("grad_fn",),
        golden="storm",
    ),
)
