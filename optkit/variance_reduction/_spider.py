"""SPIDER: steps of fixed length along a full gradient to which the changes of the batches' gradients are added.

Fang, Li, Lin, Zhang, "SPIDER: Near-Optimal Non-Convex Optimization via Stochastic Path Integrated Differential
Estimator", 2018, arXiv:1807.01695. The rule is that of the paper.
"""

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_range
from optkit.core.injection import refuse_arrays
from optkit.core.non_finite import nan_for_infinite
from optkit.core.precision import in_float32
from optkit.core.schedules import value_at
from optkit.core.trees import only
from optkit.core.types import Mask
from optkit.method import Method
from optkit.variance_reduction._path_integrated_gradient import SPIDER, estimate_by_path
from optkit.variance_reduction._recursion import (
    Scope,
    normalization,
)

__all__ = ["spider"]


def _step_of_bounded_length(
    learning_rate: optax.ScalarOrSchedule, smoothness: jax.typing.ArrayLike
) -> optax.GradientTransformation:
    """Moves by `1 / (2 smoothness)` times the estimate, or by a step of length `learning_rate` if that is shorter."""

    def init_fn(params):
        del params
        return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

    def update_fn(updates, state, params=None):
        del params
        rate = value_at(learning_rate, state.count)
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
    """SPIDER: steps of fixed length along a full gradient to which the changes of batch gradients are added.

    The update rule, where d comes from `path_integrated_gradient` and the norm is global::

        x = x - lr * d / |d|
        x = x - min(lr / |d|, 1 / (2 * smoothness)) * d     # instead, with smoothness

    Use it when the data is finite and a gradient over all of it is affordable now and then. Avoid it with a constant
    `learning_rate` alone, because all steps are equally long and the parameters do not settle: decay the learning rate,
    pass `smoothness`, or use `spider_boost`. Each step costs two gradients of one batch; once in `anchor_every` steps a
    gradient over all data replaces the second one. Both gradients of a batch must see the same randomness (dropout,
    augmentation).

    See `recursive_momentum` for how to clip the gradients and how to split a batch into several parts.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. It is the length of the steps in the global
            norm.
        anchor_every: Number of steps from one full gradient to the next, at least 1.
        smoothness: The smoothness L of the loss, above 0. Steps are then at most the estimate over 2 L, as in
            SPIDER-SFO of the paper. Default: None, no such bound.
        keep_params: See `path_integrated_gradient`. Default: True.
        trainable: Which leaves are trained: a tree of booleans, or a function that makes it from the parameters.
            Default: all. The other leaves get updates of zero.

    Returns:
        An optimizer. Its state holds two numbers per parameter, or one with `keep_params=False`. `update` needs
        `full_grad_fn`, and `grad_fn` or `prev_grads`.

    Raises:
        ValueError: If a hyperparameter is out of its range.
        TypeError: From `update`, if an extra argument is missing; and inside `optax.masked` or `optax.partition`,
            because the method needs the whole tree.

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
        arXiv:1807.01695
    """
    refuse_arrays(trainable=trainable)
    scope = Scope("spider", trainable, "trainable")
    estimator = only(estimate_by_path(scope, anchor_every, keep_params=keep_params), trainable)
    if smoothness is not None:
        check_range("smoothness", smoothness, 0.0, low_open=True)
        return in_float32(optax.chain(estimator, _step_of_bounded_length(learning_rate, smoothness)))
    return in_float32(optax.chain(estimator, normalization(), optax.scale_by_learning_rate(learning_rate)))


METHODS = (
    Method(
        name="spider",
        factory=spider,
        kind="optimizer",
        summary="Steps of fixed length along the last full gradient plus all changes of batch gradients since.",
        paper=SPIDER,
        also_known_as=("SPIDER-SFO", "stochastic path-integrated differential estimator"),
        example={"learning_rate": 3e-3, "anchor_every": 2},
        grid=3e-2,
        needs=("grad_fn", "full_grad_fn"),
    ),
)
