"""SpiderBoost: gradient descent along SPIDER's estimator, at a constant rate.

Wang, Ji, Zhou, Liang, Tarokh, "SpiderBoost: A Class of Faster Variance-reduced Algorithms for Nonconvex Optimization",
2018, arXiv:1810.10690. The rule is the paper's.
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
    estimator = only(estimate_by_path(scope, anchor_every, keep_params=keep_params), trainable)
    return in_float32(optax.chain(estimator, optax.scale_by_learning_rate(learning_rate)))


METHODS = (
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
        also_known_as=("SpiderBoost",),
        example={"learning_rate": 2e-3, "anchor_every": 2},
        grid=0.1,
        needs=("grad_fn", "full_grad_fn"),
        golden="spider",
    ),
)
