"""PAGE: as SPIDER, but a coin says in each step whether the gradient over all data is taken.

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
        count: number of updates so far.
        estimate: the estimate of the gradient, shaped and sharded like the parameters that it applies to, in float32 at
            least.
        previous_params: the parameters of the last step, or None with `keep_params=False`.
        key: raw data of the key that the next coin is drawn with.
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
    """Computes PAGE's estimate, for a coin that was drawn.

    Args:
        coin: a number in [0, 1), equal on all workers.
        state: of the last step; only `count` and `estimate` are read.
        probability: of a full gradient; the first step always takes it.
        full: gives the gradient over all data.
        gradients: this batch's gradient at the parameters.
        previous: gives this batch's gradient at the previous parameters.

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
    """The estimator, for `page_gradient` and `page`."""
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
    """Replaces the gradient by PAGE's estimator: the full gradient by chance, else the last one plus the change.

    `update` is called with `full_grad_fn` (the gradient over all data, evaluated only where the coin says so, and in
    the first step) and, for all other steps, `grad_fn` or `prev_grads`. It stands in front of any preconditioner. This
    batch's two gradients must see the same randomness (dropout, augmentation). Do not take it where no full gradient
    can be had: for that there is `recursive_momentum`.

    For clipping, and for batches in several parts, see `recursive_momentum`.

    Args:
        probability: of a full gradient in a step, in [0, 1]; with batches of b out of n examples the paper takes
            b / (n + b), with which full gradients are half of the work.
        key: an integer or a JAX key, for the coins; default 0. Coins are equal on all workers.
        keep_params: whether the state keeps the last parameters and `update` is called with
            `grad_fn=lambda point: jax.grad(loss)(point, batch)` (default); otherwise it is called with `prev_grads`,
            this batch's gradient at the last parameters.
        applies_to: tree of booleans, or a function that makes it from the parameters: the leaves that are estimated.
            The gradients of the others pass through. All by default.

    Returns:
        A transformation with a `PageGradientState`: two numbers a parameter, one with `keep_params=False`.

    Raises:
        ValueError: if `probability` is out of its range.
        TypeError: from `update` without an extra argument, and inside `optax.masked` or `optax.partition`.

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
        Li, Bao, Zhang, Richtarik, "PAGE: A Simple and Optimal Probabilistic Gradient Estimator for Nonconvex
        Optimization", 2020, arXiv:2008.10898.
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
    """PAGE: gradient descent along an estimate that a coin replaces by the full gradient.

    Do not take it where no full gradient can be had: for that there is `recursive_momentum`.

    For clipping, and for batches in several parts, see `recursive_momentum`.

    Args:
        learning_rate: a positive number or a schedule; the smaller `probability`, the smaller.
        probability: of a full gradient in a step, in [0, 1]; 1 is gradient descent.
        key: an integer or a JAX key, for the coins; default 0. Coins are equal on all workers.
        keep_params: as in `page_gradient`.
        trainable: tree of booleans, or a function that makes it from the parameters: the leaves that are trained. The
            others get updates of zero. All by default.

    Returns:
        An optimizer; its state is two numbers a parameter, one with `keep_params=False`. `update` needs `full_grad_fn`,
        and `grad_fn` or `prev_grads`.

    Raises:
        ValueError: if `probability` is out of its range.
        TypeError: from `update` without an extra argument, and inside `optax.masked` or `optax.partition`.

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
        Li, Bao, Zhang, Richtarik, "PAGE: A Simple and Optimal Probabilistic Gradient Estimator for Nonconvex
        Optimization", 2020, arXiv:2008.10898.
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
        summary="Gradient descent along an estimate that a coin replaces by the full gradient.",
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
        summary="The full gradient by chance, else the last estimate plus the change: PAGE's estimator.",
        paper=PAGE,
        also_known_as=("PAGE", "probabilistic gradient estimator"),
        example={"probability": 0.3},
        grid=0.1,
        needs=("grad_fn", "full_grad_fn"),
        golden="page",
    ),
)
