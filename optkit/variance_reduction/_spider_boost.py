"""SpiderBoost: gradient descent along SPIDER's estimator, at a constant learning rate.

Wang, Ji, Zhou, Liang, Tarokh, "SpiderBoost: A Class of Faster Variance-reduced Algorithms for Nonconvex Optimization",
2018, arXiv:1810.10690. The rule is that of the paper.
"""

import jax
import optax

from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32
from optkit.core.trees import only
from optkit.core.types import Mask
from optkit.method import Method, Paper
from optkit.variance_reduction._path_integrated_gradient import estimate_by_path
from optkit.variance_reduction._recursion import (
    Scope,
)

__all__ = ["spider_boost"]


def spider_boost(
    learning_rate: optax.ScalarOrSchedule,
    anchor_every: int | jax.Array,
    *,
    keep_params: bool = True,
    trainable: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    """SpiderBoost: gradient descent along SPIDER's estimator, at a constant learning rate.

    The update rule, where d comes from `path_integrated_gradient`::

        x = x - lr * d

    Use it when the data is finite, a gradient over all of it is affordable now and then, and the learning rate should
    stay constant. Avoid it when a full gradient is not available; use `recursive_momentum` there. Each step costs two
    gradients of one batch; once in `anchor_every` steps a gradient over all data replaces the second one. Both
    gradients of a batch must see the same randomness (dropout, augmentation).

    See `recursive_momentum` for how to clip the gradients and how to split a batch into several parts.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. The paper uses a half over the smoothness of
            the loss.
        anchor_every: Number of steps from one full gradient to the next, at least 1.
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
        >>> tx = optkit.spider_boost(0.25, anchor_every=10)
        >>> params = jnp.array([3.0, 4.0])
        >>> grad_fn = jax.grad(lambda x: jnp.sum(x**2))
        >>> updates, _ = tx.update(
        ...     grad_fn(params), tx.init(params), params, grad_fn=grad_fn, full_grad_fn=grad_fn
        ... )
        >>> optax.apply_updates(params, updates)
        Array([1.5, 2. ], dtype=float32)

    Reference:
        arXiv:1810.10690
    """
    refuse_arrays(trainable=trainable)
    scope = Scope("spider_boost", trainable, "trainable")
    estimator = only(estimate_by_path(scope, anchor_every, keep_params=keep_params), trainable)
    return in_float32(optax.chain(estimator, optax.scale_by_learning_rate(learning_rate)))


METHODS = (
    Method(
        name="spider_boost",
        factory=spider_boost,
        kind="optimizer",
        summary="Gradient descent along SPIDER's estimator, at a constant learning rate.",
        paper=Paper(
            "SpiderBoost: A Class of Faster Variance-reduced Algorithms for Nonconvex Optimization",
            "Wang et al.",
            2018,
            "1810.10690",
        ),
        also_known_as=("SpiderBoost",),
        example={"learning_rate": 2e-3, "anchor_every": 2},
        grid=0.1,
        needs=("grad_fn", "full_grad_fn"),
        golden="spider",
    ),
)
