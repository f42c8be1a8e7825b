"""AdaGrad-norm: gradient descent with one step size that falls with the norms of all gradients so far.

Ward, Wu, Bottou, "AdaGrad stepsizes: Sharp convergence over nonconvex landscapes", 2018, arXiv:1806.01811. Algorithm 1.
`optax.scale_by_rss` instead has a step size for each coordinate.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_range
from optkit.core.non_finite import nan_for_infinite
from optkit.core.precision import in_float32, scalar_dtype, widen
from optkit.method import Method, Paper

__all__ = ["adagrad_norm", "scale_by_adagrad_norm"]


class ScaleByAdagradNormState(NamedTuple):
    """State of `scale_by_adagrad_norm`.

    Attributes:
        squares: The sum of `b0**2` and the squared norms of all gradients so far, in float32 at least: a scalar, or
            with `per_leaf` one scalar per leaf. Equal on all workers if the gradients are.
    """

    squares: Any


def scale_by_adagrad_norm(
    b0: jax.typing.ArrayLike = 0.1, *, include_current: bool = True, per_leaf: bool = False
) -> optax.GradientTransformation:
    """Divides the gradient by the square root of the sum of all squared gradient norms.

    The update rule, where s begins at `b0**2`::

        s = s + |g|**2
        u = g / sqrt(s)

    Use it before a learning rate, when one step size for all parameters should set itself. Avoid it when gradients
    become small late in a long run, because the sum never shrinks.

    Args:
        b0: Start value of the square root, at least 0. Default: 0.1. A small value allows long first steps.
        include_current: Whether the sum contains the current gradient. Default: True. Without it the expected step is
            along the expected gradient, and the first step is `1 / b0` times the gradient.
        per_leaf: Whether each leaf has its own sum. Default: False.

    Returns:
        A transformation. Its state is one number, or one per leaf. It returns zeros while the sum is 0. After a
        gradient whose squared norm is not finite it returns NaN, because the sum never forgets.

    Raises:
        ValueError: If `b0` is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.scale_by_adagrad_norm(b0=0.0)
        >>> params = jnp.zeros(2)
        >>> tx.update(jnp.array([3.0, 4.0]), tx.init(params), params)[0]
        Array([0.6, 0.8], dtype=float32)

    Reference:
        arXiv:1806.01811
    """
    check_range("b0", b0, 0.0)

    def init_fn(params):
        def start(tree):
            return jnp.full([], b0**2, scalar_dtype(tree))

        return ScaleByAdagradNormState(squares=jax.tree.map(start, params) if per_leaf else start(params))

    def update_fn(updates, state, params=None):
        del params

        def accumulate(squares, tree):
            total = squares + optax.tree.norm(widen(tree), squared=True).astype(squares.dtype)
            return nan_for_infinite(total)

        squares = state.squares
        total = jax.tree.map(accumulate, squares, updates) if per_leaf else accumulate(squares, updates)  # Alg. 1, b_j
        divisors = total if include_current else squares
        divisors = divisors if per_leaf else jax.tree.map(lambda _: divisors, updates)
        scaled = jax.tree.map(
            lambda g, b2: jnp.where(b2 == 0, 0, g / jnp.sqrt(jnp.where(b2 == 0, 1, b2))).astype(g.dtype),
            updates,
            divisors,
        )  # Alg. 1, G_j / b_{j+1}
        return scaled, ScaleByAdagradNormState(total)

    return optax.GradientTransformation(init_fn, update_fn)


def adagrad_norm(
    learning_rate: optax.ScalarOrSchedule,
    b0: jax.typing.ArrayLike = 0.1,
    *,
    include_current: bool = True,
    per_leaf: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Gradient descent with the step size of AdaGrad-norm, which adapts to the curvature of the loss.

    The update rule, where s begins at `b0**2`::

        s = s + |g|**2
        x = x - lr * g / sqrt(s)

    Use it when the smoothness of the loss is unknown: if the gradient is Lipschitz, it does not diverge at any learning
    rate (with `include_current`). Avoid it for long runs in which gradients become small late, because the sum never
    shrinks. A learning rate that is too large makes the first steps long, and the sum of their squared gradients stays
    large for ever.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. About the distance from the start to the
            solution is suitable.
        b0: See `scale_by_adagrad_norm`. Default: 0.1.
        include_current: See `scale_by_adagrad_norm`. Default: True.
        per_leaf: See `scale_by_adagrad_norm`. Default: False.

    Returns:
        An optimizer. Its state is one number, or one per leaf.

    Raises:
        ValueError: If `b0` is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.adagrad_norm(2.5, b0=0.0)
        >>> params = jnp.array([3.0, 4.0])
        >>> updates, state = tx.update(params, tx.init(params), params)  # the first step is as long as the rate
        >>> optax.apply_updates(params, updates)
        Array([1.5, 2. ], dtype=float32)

    Reference:
        arXiv:1806.01811
    """
    direction = scale_by_adagrad_norm(b0, include_current=include_current, per_leaf=per_leaf)
    return in_float32(optax.chain(direction, optax.scale_by_learning_rate(learning_rate)))


METHODS = (
    Method(
        name="adagrad_norm",
        factory=adagrad_norm,
        kind="optimizer",
        summary="Gradient descent with one step size that falls with the norms of all gradients so far.",
        paper=Paper(
            "AdaGrad stepsizes: Sharp convergence over nonconvex landscapes", "Ward, Wu, Bottou", 2018, "1806.01811"
        ),
        also_known_as=("AdaGrad-Norm", "AdaGradNorm", "AdaGrad stepsizes"),
        parts=(scale_by_adagrad_norm,),
        example={"learning_rate": 1.0},
        grid=1.0,
    ),
)
