"""AdaGrad-norm: gradient descent whose one step size falls with the norms of all gradients so far.

Ward, Wu, Bottou, "AdaGrad stepsizes: Sharp convergence over nonconvex landscapes", 2018, arXiv:1806.01811. Algorithm 1.
`optax.scale_by_rss` has a step size for each coordinate.
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
        squares: `b0**2` and the squared norms of all gradients so far, in float32 at least: a scalar, or with
            `per_leaf` one a leaf. Equal on all workers if the gradients are.
    """

    squares: Any


def scale_by_adagrad_norm(
    b0: jax.typing.ArrayLike = 0.1, *, include_current: bool = True, per_leaf: bool = False
) -> optax.GradientTransformation:
    """Divides the gradient by the root of the sum of all squared gradient norms.

    Args:
        b0: what the root begins at, at least 0; default 0.1. A small one lets the first steps be long.
        include_current: whether the sum contains the current gradient; on by default. Without, the expected step is
            along the expected gradient, and the first one is `1 / b0` times as long.
        per_leaf: whether each leaf has its own sum; off by default.

    Returns:
        A transformation; its state is one number, or one a leaf. While the sum is 0 it returns zeros. After a gradient
        whose squared norm is not finite it returns NaN: the sum never forgets.

    Raises:
        ValueError: if `b0` is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.scale_by_adagrad_norm(b0=0.0)
        >>> params = jnp.zeros(2)
        >>> tx.update(jnp.array([3.0, 4.0]), tx.init(params), params)[0]
        Array([0.6, 0.8], dtype=float32)

    Reference:
        Ward, Wu, Bottou, "AdaGrad stepsizes: Sharp convergence over nonconvex landscapes", 2018, arXiv:1806.01811.
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
    """Gradient descent with AdaGrad-norm's step size, which adapts to how curved the loss is.

    Where the gradient is Lipschitz it diverges at no learning rate (with `include_current`). Too large a one makes the
    first steps long, and the sum of their squared gradients never shrinks again. Do not take it for long runs in which
    gradients become small late.

    Args:
        learning_rate: a positive number or a schedule; about the distance from the start to the solution.
        b0: what the divisor begins at, at least 0; default 0.1.
        include_current: whether the divisor contains the current gradient; on by default.
        per_leaf: whether each leaf has its own step size; off by default.

    Returns:
        An optimizer; its state is one number, or one a leaf.

    Raises:
        ValueError: if `b0` is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.adagrad_norm(2.5, b0=0.0)
        >>> params = jnp.array([3.0, 4.0])
        >>> updates, state = tx.update(params, tx.init(params), params)  # the first step is as long as the rate
        >>> optax.apply_updates(params, updates)
        Array([1.5, 2. ], dtype=float32)

    Reference:
        Ward, Wu, Bottou, "AdaGrad stepsizes: Sharp convergence over nonconvex landscapes", 2018, arXiv:1806.01811.
    """
    direction = scale_by_adagrad_norm(b0, include_current=include_current, per_leaf=per_leaf)
    return in_float32(optax.chain(direction, optax.scale_by_learning_rate(learning_rate)))


METHODS = (
    Method(
        name="adagrad_norm",
        factory=adagrad_norm,
        kind="optimizer",
        summary="One step size for all parameters, which falls with the norms of all gradients so far.",
        paper=Paper(
            "AdaGrad stepsizes: Sharp convergence over nonconvex landscapes", "Ward, Wu, Bottou", 2018, "1806.01811"
        ),
        also_known_as=("AdaGrad-Norm", "AdaGradNorm", "AdaGrad stepsizes"),
        parts=(scale_by_adagrad_norm,),
        example={"learning_rate": 1.0},
        grid=1.0,
    ),
)
