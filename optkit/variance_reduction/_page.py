"""PAGE: as SPIDER, but a random draw in each step decides whether the gradient over all data is taken.

Li, Bao, Zhang, Richtarik, "PAGE: A Simple and Optimal Probabilistic Gradient Estimator for Nonconvex Optimization",
2020, arXiv:2008.10898. Algorithm 1.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core import keys
from optkit.core.checks import check_range
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32
from optkit.core.trees import only, unmask_tree
from optkit.core.types import Key, Mask
from optkit.method import Method, Paper
from optkit.variance_reduction._recursion import (
    Scope,
    descent,
    full_gradients,
    inside,
    kept_params,
    no_estimate,
    present_params,
    previous_gradients,
    recursion_with_refresh,
)

__all__ = ["page", "page_gradient"]


class PageGradientState(NamedTuple):
    """State of `page_gradient`; equal on all workers.

    Attributes:
        count: Number of updates so far.
        estimate: The estimate of the gradient, shaped and sharded like the parameters that are transformed, in float32
            at least.
        previous_params: The parameters of the last step, or None with `keep_params=False`.
        key: Raw data of the key for the next random draw.
    """

    count: jax.typing.ArrayLike
    estimate: optax.Updates
    previous_params: Any
    key: jax.Array


def page_estimate(
    coin: jax.Array,
    state: PageGradientState,
    probability: jax.typing.ArrayLike,
    full: Callable[[], Any],
    gradients: Any,
    previous: Callable[[], Any],
) -> Any:
    """Computes PAGE's estimate for a number that was drawn.

    Args:
        coin: The drawn number in [0, 1), equal on all workers.
        state: The state of the last step; only `count` and `estimate` are read.
        probability: Probability of a full gradient. The first step always takes it.
        full: A function that returns the gradient over all data.
        gradients: The gradient of this batch at the parameters.
        previous: A function that returns the gradient of this batch at the previous parameters.

    Returns:
        The estimate.

    Example:
        >>> state = PageGradientState(count=jnp.array(1), estimate=jnp.array(1.0), previous_params=None, key=None)
        >>> full, previous = (lambda: jnp.array(7.0)), (lambda: jnp.array(2.0))
        >>> page_estimate(jnp.array(0.3), state, 0.2, full, jnp.array(5.0), previous)  # 1 + 5 - 2
        Array(4., dtype=float32)
    """
    refresh = (coin < probability) | (state.count == 0)
    return recursion_with_refresh(refresh, state.estimate, full, gradients, previous)  # Alg. 1, g^{t+1}


def _page_gradient(
    scope: Scope, probability: jax.typing.ArrayLike, key: Key, *, keep_params: bool
) -> optax.GradientTransformationExtraArgs:
    """Builds the estimator for `page_gradient` and `page`."""
    check_range("probability", probability, 0.0, 1.0)

    def init_fn(params):
        return PageGradientState(
            count=jnp.zeros([], jnp.int32),
            estimate=no_estimate(scope, params),
            previous_params=kept_params(scope, params) if keep_params else None,
            key=keys.key_data(key),
        )

    def update_fn(updates, state, params=None, *, grad_fn=None, prev_grads=None, full_grad_fn=None, **extra_args):
        del extra_args
        params = present_params(scope, params)
        key_data, fresh = keys.split(state.key, key)
        estimate = page_estimate(
            jax.random.uniform(fresh, dtype=jnp.float32),
            state,
            probability,
            lambda: full_gradients(scope, params, full_grad_fn),
            inside(scope, updates),
            lambda: previous_gradients(scope, state.previous_params, grad_fn, prev_grads),
        )
        new_state = PageGradientState(
            count=optax.safe_increment(state.count),
            estimate=estimate,
            previous_params=params if keep_params else None,
            key=key_data,
        )
        return optax.tree.cast_like(unmask_tree(estimate, updates), updates), new_state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def page_gradient(
    probability: jax.typing.ArrayLike,
    key: Key = 0,
    *,
    keep_params: bool = True,
    applies_to: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Replaces the gradient by PAGE's estimator: sometimes the full gradient, else the last estimate plus the change.

    The update rule, where g_last is the gradient of this batch at the last parameters::

        d = full_grad_fn(x)              # in the first step, then with the given probability
        d = d + g - g_last               # otherwise
        u = d

    Use it before any preconditioner, when the data is finite and a gradient over all of it is affordable now and then;
    the random draw replaces the period of `path_integrated_gradient`. Avoid it when a full gradient is not available;
    use `recursive_momentum` there. Each step costs two gradients of one batch, or one and a gradient over all data.
    Both gradients of a batch must see the same randomness (dropout, augmentation).

    See `recursive_momentum` for how to clip the gradients and how to split a batch into several parts.

    Args:
        probability: Probability of a full gradient in a step, in [0, 1]. With batches of b out of n examples the paper
            uses b / (n + b), for which full gradients are half of the work.
        key: Seed of the random draws, an integer or a JAX key. Default: 0. Must be equal on all workers.
        keep_params: Whether the state keeps the last parameters. Default: True, and `update` needs
            `grad_fn=lambda point: jax.grad(loss)(point, batch)`. With False `update` needs `prev_grads` instead, the
            gradient of this batch at the last parameters.
        applies_to: Which leaves are transformed: a tree of booleans, or a function that makes it from the parameters.
            Default: all. The gradients of the other leaves pass through unchanged.

    Returns:
        A transformation with a `PageGradientState`: two numbers per parameter, or one with `keep_params=False`. Its
        `update` needs the extra argument `full_grad_fn`, which returns the gradient over all data and is evaluated only
        in the steps that use it, and `grad_fn` or `prev_grads`.

    Raises:
        ValueError: If `probability` is outside [0, 1].
        TypeError: From `update`, if an extra argument is missing; and inside `optax.masked` or `optax.partition`,
            because the method needs the whole tree.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import optkit
        >>> data = jnp.array([1.0, 2.0, 6.0])
        >>> loss = lambda x, batch: jnp.mean((x - batch) ** 2) / 2
        >>> tx = optkit.page_gradient(0.25)
        >>> params = jnp.array(0.0)
        >>> grad_fn = lambda point: jax.grad(loss)(point, data[0])
        >>> full_grad_fn = lambda point: jax.grad(loss)(point, data)
        >>> tx.update(grad_fn(params), tx.init(params), params, grad_fn=grad_fn, full_grad_fn=full_grad_fn)[0]
        Array(-3., dtype=float32)

    Reference:
        arXiv:2008.10898
    """
    refuse_arrays(applies_to=applies_to)
    return _page_gradient(Scope("page_gradient", applies_to), probability, key, keep_params=keep_params)


def page(
    learning_rate: optax.ScalarOrSchedule,
    probability: jax.typing.ArrayLike,
    key: Key = 0,
    *,
    keep_params: bool = True,
    trainable: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    """PAGE: gradient descent along an estimate that a random draw sometimes replaces by the full gradient.

    The update rule, where d comes from `page_gradient`::

        x = x - lr * d

    Use it when the data is finite and a gradient over all of it is affordable now and then. Avoid it when a full
    gradient is not available; use `recursive_momentum` there. Each step costs two gradients of one batch, or one and a
    gradient over all data. Both gradients of a batch must see the same randomness (dropout, augmentation).

    See `recursive_momentum` for how to clip the gradients and how to split a batch into several parts.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. The smaller `probability` is, the smaller it
            must be.
        probability: Probability of a full gradient in a step, in [0, 1]. 1 is gradient descent.
        key: Seed of the random draws, an integer or a JAX key. Default: 0. Must be equal on all workers.
        keep_params: See `page_gradient`. Default: True.
        trainable: Which leaves are trained: a tree of booleans, or a function that makes it from the parameters.
            Default: all. The other leaves get updates of zero.

    Returns:
        An optimizer. Its state holds two numbers per parameter, or one with `keep_params=False`. `update` needs
        `full_grad_fn`, and `grad_fn` or `prev_grads`.

    Raises:
        ValueError: If `probability` is outside [0, 1].
        TypeError: From `update`, if an extra argument is missing; and inside `optax.masked` or `optax.partition`,
            because the method needs the whole tree.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.page(0.25, probability=0.1)
        >>> params = jnp.array([3.0, 4.0])
        >>> grad_fn = jax.grad(lambda x: jnp.sum(x**2))
        >>> updates, _ = tx.update(
        ...     grad_fn(params), tx.init(params), params, grad_fn=grad_fn, full_grad_fn=grad_fn
        ... )
        >>> optax.apply_updates(params, updates)
        Array([1.5, 2. ], dtype=float32)

    Reference:
        arXiv:2008.10898
    """
    refuse_arrays(trainable=trainable)
    estimator = _page_gradient(Scope("page", trainable, "trainable"), probability, key, keep_params=keep_params)
    return in_float32(optax.chain(only(estimator, trainable), optax.scale_by_learning_rate(learning_rate)))


PAGE = Paper(
    "PAGE: A Simple and Optimal Probabilistic Gradient Estimator for Nonconvex Optimization",
    "Li et al.",
    2020,
    "2008.10898",
)

METHODS = (
    Method(
        name="page",
        factory=page,
        kind="optimizer",
        summary="Gradient descent along an estimate that a random draw sometimes replaces by the full gradient.",
        paper=PAGE,
        also_known_as=("probabilistic gradient estimator",),
        example={"learning_rate": 2e-3, "probability": 0.3},
        grid=0.1,
        needs=("grad_fn", "full_grad_fn"),
    ),
    Method(
        name="page_gradient",
        factory=page_gradient,
        kind="transformation",
        compose=descent,
        summary="PAGE's estimator: sometimes the full gradient, otherwise the last estimate plus the change.",
        paper=PAGE,
        also_known_as=("PAGE", "probabilistic gradient estimator"),
        example={"probability": 0.3},
        grid=0.1,
        needs=("grad_fn", "full_grad_fn"),
        golden="page",
    ),
)
