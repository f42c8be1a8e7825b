"""SVRG: subtracts the noise of the gradient at an anchor, where the gradient over all data is known.

Johnson, Zhang, "Accelerating Stochastic Gradient Descent using Predictive Variance Reduction", NeurIPS 2013, with the
coefficient alpha of Yin, Xu, Li, Darrell, Liu, "A Coefficient Makes SVRG Effective", 2023, arXiv:2311.05589. The rules
are those of the papers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_count, check_range
from optkit.core.injection import refuse_arrays
from optkit.core.precision import in_float32
from optkit.core.schedules import value_at
from optkit.core.trees import only, unmask_tree
from optkit.core.types import Mask
from optkit.core.workers import collectives
from optkit.method import Method, Paper
from optkit.variance_reduction._recursion import (
    Scope,
    descent,
    full_gradients,
    inside,
    is_due,
    kept_params,
    no_estimate,
    present_params,
    previous_gradients,
)

__all__ = ["svrg", "svrg_correction"]


class SvrgCorrectionState(NamedTuple):
    """State of `svrg_correction`; equal on all workers.

    Attributes:
        count: Number of updates so far.
        anchor: The parameters at the last refresh.
        anchor_gradient: The gradient over all data at the anchor, shaped and sharded like the parameters that are
            transformed, in float32 at least.
    """

    count: jax.typing.ArrayLike
    anchor: optax.Params
    anchor_gradient: optax.Updates


def _svrg_correction(
    scope: Scope, anchor_every: int | jax.Array, alpha: optax.ScalarOrSchedule
) -> optax.GradientTransformationExtraArgs:
    """Builds the correction for `svrg_correction` and `svrg`."""
    check_count("anchor_every", anchor_every)
    check_range("alpha", alpha, 0.0)

    def init_fn(params):
        return SvrgCorrectionState(
            count=jnp.zeros([], jnp.int32),
            anchor=kept_params(scope, params),
            anchor_gradient=no_estimate(scope, params),
        )

    def update_fn(updates, state, params=None, *, grad_fn=None, full_grad_fn=None, **extra_args):
        del extra_args
        params = present_params(scope, params)
        gradients = inside(scope, updates)

        def refreshed():
            full = full_gradients(scope, params, full_grad_fn)
            return params, optax.tree.cast_like(full, state.anchor_gradient)

        anchor, anchor_gradient = collectives.cond(
            is_due(state.count, anchor_every), refreshed, lambda: (state.anchor, state.anchor_gradient)
        )
        at_anchor = previous_gradients(scope, anchor, grad_fn, None)
        coefficient = value_at(alpha, state.count)
        corrected = jax.tree.map(
            lambda g, a, mu: (
                g - jnp.asarray(coefficient, mu.dtype) * (a - mu)
            ),  # Yin et al., alpha-SVRG; with alpha = 1 Johnson and Zhang
            gradients,
            at_anchor,
            anchor_gradient,
        )
        new_state = SvrgCorrectionState(optax.safe_increment(state.count), anchor, anchor_gradient)
        return optax.tree.cast_like(unmask_tree(corrected, updates), updates), new_state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def svrg_correction(
    anchor_every: int | jax.Array, alpha: optax.ScalarOrSchedule = 1.0, *, applies_to: Mask | None = None
) -> optax.GradientTransformationExtraArgs:
    """Subtracts the noise that this batch's gradient has at an anchor, where the gradient over all data is known.

    The update rule, where z is the anchor and mu the gradient over all data there; both are renewed in the first step
    and then once in `anchor_every` steps::

        z, mu = x, full_grad_fn(x)       # once in anchor_every steps
        u = g - alpha * (grad_fn(z) - mu)

    The result is unbiased, and it has no noise when the parameters are at the anchor.

    Use it before any preconditioner, when the data is finite and a gradient over all of it is affordable now and then.
    Avoid it for deep networks with `alpha=1`, because away from the anchor the two gradients of a batch are hardly
    correlated, and the noise grows. Each step costs two gradients of one batch, and each refresh one over all data.
    Both gradients of a batch must see the same randomness (dropout, augmentation).

    See `recursive_momentum` for how to clip the gradients and how to split a batch into several parts.

    Args:
        anchor_every: Number of steps for which an anchor is kept, at least 1. One or two epochs are usual.
        alpha: The share of the noise that is subtracted, at least 0, a number or a schedule. Default: 1. For deep
            networks Yin et al. decrease it linearly from 0.75 to 0: `optax.linear_schedule(0.75, 0.0, steps)`.
        applies_to: Which leaves are transformed: a tree of booleans, or a function that makes it from the parameters.
            Default: all. The gradients of the other leaves pass through unchanged.

    Returns:
        A transformation with a `SvrgCorrectionState`: two numbers per parameter. Its `update` needs the extra arguments
        `grad_fn`, which returns this batch's gradient at any point, and `full_grad_fn`, which returns the gradient over
        all data.

    Raises:
        ValueError: If `anchor_every` is not a positive integer, or if `alpha` is negative.
        TypeError: From `update`, if an extra argument is missing; and inside `optax.masked` or `optax.partition`,
            because the method needs the whole tree.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import optkit
        >>> data = jnp.array([1.0, 2.0, 6.0])
        >>> loss = lambda x, batch: jnp.mean((x - batch) ** 2) / 2
        >>> tx = optkit.svrg_correction(anchor_every=3)
        >>> params = jnp.array(0.0)
        >>> grad_fn = lambda point: jax.grad(loss)(point, data[0])
        >>> full_grad_fn = lambda point: jax.grad(loss)(point, data)
        >>> tx.update(grad_fn(params), tx.init(params), params, grad_fn=grad_fn, full_grad_fn=full_grad_fn)[0]
        Array(-3., dtype=float32)

    Reference:
        Johnson, Zhang, NeurIPS 2013
        arXiv:2311.05589
    """
    refuse_arrays(applies_to=applies_to)
    return _svrg_correction(Scope("svrg_correction", applies_to), anchor_every, alpha)


def svrg(
    learning_rate: optax.ScalarOrSchedule,
    anchor_every: int | jax.Array,
    alpha: optax.ScalarOrSchedule = 1.0,
    *,
    trainable: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    """SVRG and alpha-SVRG: gradient descent with the noise of the gradient at an anchor subtracted.

    The update rule, where u comes from `svrg_correction`::

        x = x - lr * u

    Use it on strongly convex finite sums, where it converges at a constant learning rate while SGD stops at its noise.
    Avoid it for deep networks with `alpha=1`, because the noise grows away from the anchor. Each step costs two
    gradients of one batch, and each refresh one over all data. Both gradients of a batch must see the same randomness
    (dropout, augmentation).

    See `recursive_momentum` for how to clip the gradients and how to split a batch into several parts.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. About 0.1 to 0.5 over the smoothness of the
            batches' losses is suitable.
        anchor_every: Number of steps for which an anchor is kept, at least 1. One or two epochs are usual.
        alpha: See `svrg_correction`. Default: 1. For deep networks Yin et al. decrease it linearly from 0.75 to 0:
            `optax.linear_schedule(0.75, 0.0, steps)`.
        trainable: Which leaves are trained: a tree of booleans, or a function that makes it from the parameters.
            Default: all. The other leaves get updates of zero.

    Returns:
        An optimizer. Its state holds two numbers per parameter. `update` needs `grad_fn` and `full_grad_fn`.

    Raises:
        ValueError: If `anchor_every` is not a positive integer, or if `alpha` is negative.
        TypeError: From `update`, if an extra argument is missing; and inside `optax.masked` or `optax.partition`,
            because the method needs the whole tree.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import optax, optkit
        >>> data = jnp.array([1.0, 2.0, 6.0])
        >>> loss = lambda x, batch: jnp.mean((x - batch) ** 2) / 2
        >>> tx = optkit.svrg(0.5, anchor_every=3)
        >>> params = jnp.array(0.0)
        >>> grad_fn = lambda point: jax.grad(loss)(point, data[0])
        >>> full_grad_fn = lambda point: jax.grad(loss)(point, data)
        >>> updates, _ = tx.update(
        ...     grad_fn(params), tx.init(params), params, grad_fn=grad_fn, full_grad_fn=full_grad_fn
        ... )
        >>> optax.apply_updates(params, updates)
        Array(1.5, dtype=float32)

    Reference:
        Johnson, Zhang, NeurIPS 2013
        arXiv:2311.05589
    """
    refuse_arrays(trainable=trainable)
    correction = _svrg_correction(Scope("svrg", trainable, "trainable"), anchor_every, alpha)
    return in_float32(optax.chain(only(correction, trainable), optax.scale_by_learning_rate(learning_rate)))


ALPHA_SVRG = Paper("A Coefficient Makes SVRG Effective", "Yin et al.", 2023, "2311.05589")
SVRG_NAMES = ("alpha-SVRG", "stochastic variance reduced gradient")

METHODS = (
    Method(
        name="svrg",
        factory=svrg,
        kind="optimizer",
        summary="SVRG and alpha-SVRG: gradient descent without the noise of the gradient at an anchor.",
        paper=ALPHA_SVRG,
        also_known_as=SVRG_NAMES,
        example={"learning_rate": 2e-3, "anchor_every": 2},
        grid=0.1,
        needs=("grad_fn", "full_grad_fn"),
    ),
    Method(
        name="svrg_correction",
        factory=svrg_correction,
        kind="transformation",
        compose=descent,
        summary="Subtracts the noise of the gradient at an anchor, where the gradient over all data is known.",
        paper=ALPHA_SVRG,
        also_known_as=("SVRG", *SVRG_NAMES),
        example={"anchor_every": 2},
        grid=0.1,
        needs=("grad_fn", "full_grad_fn"),
        golden="svrg",
    ),
)
