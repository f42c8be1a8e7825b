"""STORM as in its authors' code: rates and weights for every coordinate.

Cutkosky, Orabona, "Momentum-Based Variance Reduction in Non-Convex SGD", 2019, arXiv:1905.10018. The rule is that of
the authors' code (google-research, storm_optimizer.py). It differs from the paper, which `storm.py` follows. Every
coordinate has its own sum of squares, rate and weight. The weight comes from the present rate, not from the last one.
The estimate is clipped to the largest gradient norm of its parameter so far. The first step has no rule of its own, so
it is shorter if its weight is below 1.
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
from optkit.core.roots import cube_root
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
        count: Number of updates so far.
        estimate: The estimate of the gradient, shaped and sharded like the parameters that are transformed, in float32
            at least.
        previous_params: The parameters of the last step, or None with `keep_params=False`.
        sum_of_squares: Sum of all squared gradients, shaped and sharded like the parameters that are transformed.
        largest_norm: The largest norm of the gradients so far, a scalar for each transformed parameter.
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
    """Builds the rule for `scale_by_storm_coordinatewise` and `storm_coordinatewise`."""
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
            lambda s: jnp.asarray(rate, s.dtype) / cube_root(w + s), sum_of_squares
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
    """Replaces the gradient by the step of STORM's authors' code, with a rate for every coordinate.

    The update rule, where g_last is the gradient of this batch at the last parameters (g in the first step), s begins
    at `g_max**3`, and n begins at `g_max` and is one number per leaf::

        n = max(n, |g|)
        s = s + g**2
        rate = learning_rate / (w + s)**(1/3)
        a = min(1, momentum * rate**2)
        d = clip(g + (1 - a) * (d - g_last), -n, n)
        u = rate * d

    Use it when other transformations follow this step. Add `optax.scale(-1.0)` and no further learning rate, because
    the weight of the gradient depends on the rate. Avoid it before a preconditioner; use `recursive_momentum` there.
    Each step costs two gradients of one batch. Both gradients of a batch must see the same randomness (dropout,
    augmentation).

    See `recursive_momentum` for how to clip the gradients and how to split a batch into several parts.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. Default: 1. It is a factor on the rate, on
            which the weight of the gradient depends.
        g_max: A guess of the largest gradient, above 0. Default: 0.01. Every sum of squares begins at its cube.
        momentum: Weight of the gradient in the estimate in units of the squared rate, at least 0. Default: 100.
        w: Added to the sums of squares, at least 0. Default: 10.
        keep_params: See `recursive_momentum`. Default: True.
        applies_to: Which leaves are transformed: a tree of booleans, or a function that makes it from the parameters.
            Default: all. The gradients of the other leaves pass through unchanged.

    Returns:
        A transformation with a `ScaleByStormCoordinatewiseState`: three numbers per parameter, or two with
        `keep_params=False`.

    Raises:
        ValueError: If a hyperparameter is out of its range.
        TypeError: From `update`, if the extra argument is missing; and inside `optax.masked` or `optax.partition`,
            because the method needs the whole tree.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.scale_by_storm_coordinatewise(g_max=1.0, w=6.0)
        >>> params = jnp.array([1.0, -1.0])
        >>> tx.update(params, tx.init(params), params, grad_fn=lambda point: point)[0]  # g / (6 + 1 + 1)^(1/3)
        Array([ 0.5, -0.5], dtype=float32)

    Reference:
        arXiv:1905.10018
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
    """STORM as in its authors' code: a rate for every coordinate and a clipped estimate.

    The update rule, where u comes from `scale_by_storm_coordinatewise` and already contains the learning rate::

        x = x - u

    Use it in place of `storm` when the coordinates of the gradient differ in scale, or to repeat the results of the
    authors' code. Avoid it when the paper's guarantee is needed, because that holds for `storm` only. Each step costs
    two gradients of one batch. Both gradients of a batch must see the same randomness (dropout, augmentation). It keeps
    one number per parameter more than `storm`.

    See `recursive_momentum` for how to clip the gradients and how to split a batch into several parts.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. Default: 1.
        g_max: See `scale_by_storm_coordinatewise`. Default: 0.01.
        momentum: See `scale_by_storm_coordinatewise`. Default: 100.
        w: See `scale_by_storm_coordinatewise`. Default: 10. The authors' code calls it eta.
        keep_params: See `recursive_momentum`. Default: True.
        trainable: Which leaves are trained: a tree of booleans, or a function that makes it from the parameters.
            Default: all. The other leaves get updates of zero.

    Returns:
        An optimizer. Its state holds three numbers per parameter, or two with `keep_params=False`.

    Raises:
        ValueError: If a hyperparameter is out of its range.
        TypeError: From `update`, if the extra argument is missing; and inside `optax.masked` or `optax.partition`,
            because the method needs the whole tree.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.storm_coordinatewise(g_max=1.0, w=6.0)
        >>> params = jnp.array([1.0, -1.0])
        >>> updates, state = tx.update(params, tx.init(params), params, grad_fn=lambda point: point)
        >>> optax.apply_updates(params, updates)
        Array([ 0.5, -0.5], dtype=float32)

    Reference:
        arXiv:1905.10018
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
        summary="STORM as in its authors' code: a rate for every coordinate and a clipped estimate.",
        paper=STORM,
        also_known_as=("storm_optimizer",),
        parts=(scale_by_storm_coordinatewise,),
        example={"learning_rate": 0.25},
        grid=0.3,
        needs=("grad_fn",),
        golden="storm",
    ),
)
