"""STORM: recursive momentum, with rates that shrink as gradients accumulate and weights that shrink with the rates.

Cutkosky, Orabona, "Momentum-Based Variance Reduction in Non-Convex SGD", 2019, arXiv:1905.10018. Algorithm 1.
The rule is the paper's; that of the authors' code, which is another one, is in `storm_coordinatewise.py`.
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
        count: number of updates so far.
        estimate: the estimate of the gradient, shaped and sharded like the parameters that it applies to, in float32 at
            least.
        previous_params: the parameters of the last step, or None with `keep_params=False`.
        sum_of_squares: sum of the squared norms of all gradients.
        weight: of the next gradient in the estimate, 1 at first.
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
    """The rule, for `scale_by_storm` and `storm`."""
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
    """Replaces the gradient by STORM's step: its recursive momentum times its adaptive rate.

    The momentum's weight depends on the rate, so this is both; after it comes nothing but the sign. For the momentum
    in front of a preconditioner take `recursive_momentum`.

    For clipping, and for batches in several parts, see `recursive_momentum`.

    Args:
        learning_rate: the paper's k, a positive number or a schedule; default 0.1.
        w: the paper's w, which bounds the first rates, positive; default 0.1.
        c: the next gradient's weight in units of the squared rate, at least 0; default 100.
        keep_params: as in `recursive_momentum`.
        applies_to: as in `recursive_momentum`; norms are those of these leaves.

    Returns:
        A transformation with a `ScaleByStormState`: two numbers a parameter, one with `keep_params=False`.

    Raises:
        ValueError: if a hyperparameter is out of its range.
        TypeError: from `update` without the extra argument, and inside `optax.masked` or `optax.partition`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.scale_by_storm(1.0, w=2.0)
        >>> params = jnp.array([1.0, -1.0, 2.0])
        >>> tx.update(params, tx.init(params), params, grad_fn=lambda point: point)[0]  # g / (2 + 6)^(1/3)
        Array([ 0.5, -0.5,  1. ], dtype=float32)

    Reference:
        Cutkosky, Orabona, "Momentum-Based Variance Reduction in Non-Convex SGD", 2019, arXiv:1905.10018.
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
    """STORM as in its paper: recursive momentum, with rates that shrink as gradients accumulate.

    Each step takes two gradients on one batch, with the same randomness (dropout, augmentation) in both. Do not take it
    for long training of networks without a larger `learning_rate`: its rates only ever shrink, as AdaGrad's do.

    For clipping, and for batches in several parts, see `recursive_momentum`.

    Args:
        learning_rate: the paper's k, a positive number or a schedule; default 0.1. The rate is this over the cube root
            of `w` plus the sum of all squared gradient norms.
        w: bounds the first rates, positive; default 0.1.
        c: the next gradient's weight in the momentum in units of the squared rate, at least 0; default 100. It is to
            grow with the square of the loss's smoothness; the paper sweeps it.
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
        >>> tx = optkit.storm(1.0, w=2.0)
        >>> params = jnp.array([1.0, -1.0, 2.0])
        >>> updates, state = tx.update(params, tx.init(params), params, grad_fn=lambda point: point)
        >>> optax.apply_updates(params, updates)
        Array([ 0.5, -0.5,  1. ], dtype=float32)

    Reference:
        Cutkosky, Orabona, "Momentum-Based Variance Reduction in Non-Convex SGD", 2019, arXiv:1905.10018.
    """
    refuse_arrays(trainable=trainable)
    direction = _scale_by_storm(Scope("storm", trainable, "trainable"), learning_rate, w, c, keep_params=keep_params)
    return in_float32(optax.chain(only(direction, trainable), optax.scale(-1.0)))


METHODS = (
    Method(
        name="storm",
        factory=storm,
        kind="optimizer",
        summary="Recursive momentum, with rates that shrink as gradients accumulate: the paper's form.",
        paper=STORM,
        also_known_as=("stochastic recursive momentum", "momentum-based variance reduction"),
        parts=(scale_by_storm,),
        example={"learning_rate": 0.1},
        grid=0.3,
        needs=("grad_fn",),
    ),
)
