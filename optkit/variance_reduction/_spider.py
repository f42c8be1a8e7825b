"""SPIDER and SpiderBoost: a full gradient now and then, and in between what each batch's gradient changed by.

Fang, Li, Lin, Zhang, "SPIDER: Near-Optimal Non-Convex Optimization via Stochastic Path Integrated Differential
Estimator", 2018, arXiv:1807.01695; Wang, Ji, Zhou, Liang, Tarokh, "SpiderBoost: A Class of Faster Variance-reduced
Algorithms for Nonconvex Optimization", 2018, arXiv:1810.10690. The rules are the papers'.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_count, check_range
from optkit.core.injection import refuse_arrays
from optkit.core.non_finite import nan_for_infinite
from optkit.core.precision import in_float32
from optkit.core.trees import only, unmask_tree
from optkit.core.types import Mask
from optkit.method import Method, Paper
from optkit.variance_reduction._recursion import (
    Scope,
    full_gradients,
    inside,
    is_due,
    kept_params,
    no_estimate,
    normalization,
    present_params,
    previous_gradients,
    recursion_with_refresh,
)


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


def _path_integrated_gradient(
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
        ValueError: if `anchor_every` is no positive integer.
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
    return _path_integrated_gradient(scope, anchor_every, keep_params=keep_params)


def _step_of_bounded_length(
    learning_rate: optax.ScalarOrSchedule, smoothness: jax.typing.ArrayLike
) -> optax.GradientTransformation:
    """Steps of `1 / (2 smoothness)` times the estimate, or of length `learning_rate` if that is shorter."""

    def init_fn(params):
        del params
        return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

    def update_fn(updates, state, params=None):
        del params
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        norm = nan_for_infinite(optax.tree.norm(updates))
        bounded_by_length = jnp.asarray(rate, norm.dtype) / jnp.where(norm == 0, 1, norm)
        step_size = jnp.where(norm == 0, 0, jnp.minimum(bounded_by_length, 0.5 / smoothness))
        steps = jax.tree.map(lambda d: (-step_size * d).astype(d.dtype), updates)  # SPIDER-SFO, eta^k v^k
        return steps, optax.ScaleByScheduleState(count=optax.safe_increment(state.count))

    return optax.GradientTransformation(init_fn, update_fn)


def spider(
    learning_rate: optax.ScalarOrSchedule,
    anchor_every: int | jax.Array,
    *,
    smoothness: jax.typing.ArrayLike | None = None,
    keep_params: bool = True,
    trainable: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    """SPIDER: steps of fixed length along a full gradient that is carried on by the batches' changes.

    It does not settle at a constant `learning_rate`, since all steps are equally long: let it decay, give `smoothness`,
    or take `spider_boost`.

    For clipping, and for batches in several parts, see `recursive_momentum`.

    Args:
        learning_rate: the length of the steps (global norm), a positive number or a schedule.
        anchor_every: number of steps from one full gradient to the next, at least 1.
        smoothness: the loss's smoothness L, positive: no step is then longer than the estimate over 2 L, as in the
            paper's SPIDER-SFO. No such bound by default.
        keep_params: as in `path_integrated_gradient`.
        trainable: tree of booleans, or a function that makes it from the parameters: the leaves that are trained. The
            others get updates of zero. All by default.

    Returns:
        An optimizer; its state is two numbers a parameter, one with `keep_params=False`. `update` needs `full_grad_fn`,
        and `grad_fn` or `prev_grads`.

    Raises:
        ValueError: if a hyperparameter is out of its range.
        TypeError: from `update` without an extra argument, and inside `optax.masked` or `optax.partition`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.spider(0.5, anchor_every=10)
        >>> params = jnp.array([3.0, 4.0])
        >>> grad_fn = jax.grad(lambda x: jnp.sum(x**2))
        >>> updates, _ = tx.update(
        ...     grad_fn(params), tx.init(params), params, grad_fn=grad_fn, full_grad_fn=grad_fn
        ... )
        >>> optax.apply_updates(params, updates)
        Array([2.7, 3.6], dtype=float32)

    Reference:
        Fang, Li, Lin, Zhang, "SPIDER: Near-Optimal Non-Convex Optimization via Stochastic Path Integrated Differential
        Estimator", 2018, arXiv:1807.01695.
    """
    refuse_arrays(trainable=trainable)
    scope = Scope("spider", trainable, "trainable")
    estimator = only(_path_integrated_gradient(scope, anchor_every, keep_params=keep_params), trainable)
    if smoothness is not None:
        check_range("smoothness", smoothness, 0.0, low_open=True)
        return in_float32(optax.chain(estimator, _step_of_bounded_length(learning_rate, smoothness)))
    return in_float32(optax.chain(estimator, normalization(), optax.scale_by_learning_rate(learning_rate)))


def spider_boost(
    learning_rate: optax.ScalarOrSchedule,
    anchor_every: int | jax.Array,
    *,
    keep_params: bool = True,
    trainable: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    """SpiderBoost: gradient descent along SPIDER's estimator, at a constant rate.

    Do not take it where no full gradient can be had: for that there is `recursive_momentum`.

    For clipping, and for batches in several parts, see `recursive_momentum`.

    Args:
        learning_rate: a positive number or a schedule; the paper's is a half over the loss's smoothness.
        anchor_every: number of steps from one full gradient to the next, at least 1.
        keep_params: as in `path_integrated_gradient`.
        trainable: tree of booleans, or a function that makes it from the parameters: the leaves that are trained. The
            others get updates of zero. All by default.

    Returns:
        An optimizer; its state is two numbers a parameter, one with `keep_params=False`. `update` needs `full_grad_fn`,
        and `grad_fn` or `prev_grads`.

    Raises:
        ValueError: if a hyperparameter is out of its range.
        TypeError: from `update` without an extra argument, and inside `optax.masked` or `optax.partition`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.spider_boost(0.25, anchor_every=10)
        >>> params = jnp.array([3.0, 4.0])
        >>> grad_fn = jax.grad(lambda x: jnp.sum(x**2))
        >>> updates, _ = tx.update(
        ...     grad_fn(params), tx.init(params), params, grad_fn=grad_fn, full_grad_fn=grad_fn
        ... )
        >>> optax.apply_updates(params, updates)
        Array([1.5, 2. ], dtype=float32)

    Reference:
        Wang, Ji, Zhou, Liang, Tarokh, "SpiderBoost: A Class of Faster Variance-reduced Algorithms for Nonconvex
        Optimization", 2018, arXiv:1810.10690.
    """
    refuse_arrays(trainable=trainable)
    scope = Scope("spider_boost", trainable, "trainable")
    estimator = only(_path_integrated_gradient(scope, anchor_every, keep_params=keep_params), trainable)
    return in_float32(optax.chain(estimator, optax.scale_by_learning_rate(learning_rate)))


METHODS = (
    Method(
        name="spider",
        factory=spider,
        kind="optimizer",
        summary="Steps of fixed length along a full gradient that is carried on by the batches' changes.",
        paper=Paper(
            "SPIDER: Near-Optimal Non-Convex Optimization via Stochastic Path Integrated Differential Estimator",
            "Fang et al.",
            2018,
            "1807.01695",
        ),
        example={"learning_rate": 3e-3, "anchor_every": 2},
        grid=3e-2,
        needs=("grad_fn", "full_grad_fn"),
    ),
    Method(
        name="spider_boost",
        factory=spider_boost,
        kind="optimizer",
        summary="Gradient descent along SPIDER's estimator, at a constant rate.",
        paper=Paper(
            "SpiderBoost: A Class of Faster Variance-reduced Algorithms for Nonconvex Optimization",
            "Wang et al.",
            2018,
            "1810.10690",
        ),
        example={"learning_rate": 2e-3, "anchor_every": 2},
        grid=0.1,
        needs=("grad_fn", "full_grad_fn"),
        golden="spider",
    ),
)
