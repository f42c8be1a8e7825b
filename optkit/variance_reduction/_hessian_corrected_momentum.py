"""Momentum that a Hessian-vector product moves along with the gradient: the estimator of HARPG.

Fatkhullin, Barakat, Kireeva, He, "Stochastic Policy Gradient Methods: Improved Sample Complexity for
Fisher-non-degenerate Policies", 2023, arXiv:2302.01734. Algorithm 2, for minimization of any loss. The paper's Hessian
estimator for policies has a score-function term; here the user passes that estimator as `hvp_fn`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core import keys
from optkit.core.checks import check_range
from optkit.core.hessian_products import hessian_products_at
from optkit.core.injection import refuse_arrays
from optkit.core.non_finite import nan_for_infinite
from optkit.core.schedules import value_at
from optkit.core.trees import unmask_tree
from optkit.core.types import Key, Mask, Schedule
from optkit.method import Method, Paper
from optkit.variance_reduction._recursion import (
    Scope,
    descent,
    inside,
    kept_params,
    no_estimate,
    present_params,
)

__all__ = ["harpg_schedule", "hessian_corrected_momentum"]


class HessianCorrectedMomentumState(NamedTuple):
    """State of `hessian_corrected_momentum`; equal on all workers.

    Attributes:
        count: Number of updates so far.
        estimate: The estimate of the gradient, shaped and sharded like the parameters that are transformed, in float32
            at least.
        previous_params: The parameters of the last step.
        key: Raw data of the key that draws the next point between the parameters.
    """

    count: jax.typing.ArrayLike
    estimate: optax.Updates
    previous_params: optax.Params
    key: jax.Array


def harpg_schedule(power: jax.typing.ArrayLike = 1.0) -> Schedule:
    """Returns the weights `(2 / (t + 2)) ** power` for the steps t = 0, 1, ...

    Use it as the `eta` of `harpg` and `hessian_corrected_momentum`.

    Args:
        power: The exponent, at least 0. Default: 1, as in the paper.

    Returns:
        A schedule that begins with 1.

    Raises:
        ValueError: If `power` is negative.

    Example:
        >>> harpg_schedule()(2)
        Array(0.5, dtype=float32)

    Reference:
        arXiv:2302.01734
    """
    check_range("power", power, 0.0)

    def schedule(count):
        # An integer of 32 bits divides to 32 bits, in double precision too.
        return (2 / (jnp.asarray(count, float) + 2)) ** power

    return schedule


def hessian_corrected_estimate(
    q: jax.typing.ArrayLike,
    state: HessianCorrectedMomentumState,
    weight: jax.typing.ArrayLike,
    params: optax.Params,
    gradients: optax.Updates,
    hvp_fn: Callable[[Any, Any], Any],
) -> Any:
    """Computes HARPG's estimate for a q that was drawn.

    Args:
        q: The place where the Hessian is taken, from 0 (the previous parameters) to 1 (the present ones), equal on all
            workers.
        state: The state of the last step; `key` is not read.
        weight: Weight of the gradient, in [0, 1].
        params: The whole tree of parameters.
        gradients: The gradient of this batch at the parameters, on the leaves that are estimated.
        hvp_fn: A function that is called as `hvp_fn(point, vector)` and returns, for those leaves, the Hessian at
            `point` times `vector`.

    Returns:
        The estimate, which is the gradient in the first step. Infinite entries become NaN, because the estimate hardly
        forgets.

    Example:
        >>> state = HessianCorrectedMomentumState(
        ...     count=jnp.array(1), estimate=jnp.array(1.0), previous_params=jnp.array(2.0), key=None
        ... )
        >>> cubic = lambda point, vector: 6 * point * vector
        >>> hessian_corrected_estimate(0.5, state, 0.0, jnp.array(4.0), jnp.array(9.0), cubic)  # 1 + 6 * 3 * 2
        Array(37., dtype=float32)
    """

    def between(x, y):
        share = jnp.asarray(q, x.dtype)
        return share * x + (1 - share) * y

    point = jax.tree.map(between, params, state.previous_params)
    change = hvp_fn(point, optax.tree.sub(params, state.previous_params))
    weight = jnp.where(state.count == 0, 1.0, weight)

    def leaf(g, d, h):
        eta = jnp.asarray(weight, d.dtype)
        return ((1 - eta) * (d + h) + eta * g).astype(d.dtype)  # Alg. 2, d_t

    return nan_for_infinite(jax.tree.map(leaf, gradients, state.estimate, change))


def corrected_by_hessian(
    scope: Scope, eta: optax.ScalarOrSchedule | None, key: Key
) -> optax.GradientTransformationExtraArgs:
    """Builds the estimator for `hessian_corrected_momentum` and `harpg`."""
    check_range("eta", eta, 0.0, 1.0)
    eta = harpg_schedule() if eta is None else eta

    def init_fn(params):
        return HessianCorrectedMomentumState(
            count=jnp.zeros([], jnp.int32),
            estimate=no_estimate(scope, params),
            previous_params=kept_params(scope, params),
            key=keys.key_data(key),
        )

    def update_fn(updates, state, params=None, *, grad_fn=None, hvp_fn=None, **extra_args):
        del extra_args
        params = present_params(scope, params)
        product = hessian_products_at(scope.method, grad_fn, hvp_fn)
        key_data, fresh = keys.split(state.key, key)
        estimate = hessian_corrected_estimate(
            jax.random.uniform(fresh, dtype=jnp.float32),
            state,
            value_at(eta, state.count),
            params,
            inside(scope, updates),
            lambda point, vector: inside(scope, product(point, vector)),
        )
        new_state = HessianCorrectedMomentumState(optax.safe_increment(state.count), estimate, params, key_data)
        return optax.tree.cast_like(unmask_tree(estimate, updates), updates), new_state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def hessian_corrected_momentum(
    eta: optax.ScalarOrSchedule | None = None, key: Key = 0, *, applies_to: Mask | None = None
) -> optax.GradientTransformationExtraArgs:
    """Replaces the gradient by an exponential average that a Hessian-vector product corrects for the last step.

    The update rule, where x_last are the last parameters, q is drawn uniformly from [0, 1), and H(z) is the Hessian at
    z. In the first step d = g::

        z = q * x + (1 - q) * x_last
        d = (1 - eta) * (d + H(z) (x - x_last)) + eta * g
        u = d

    The random point z makes the correction unbiased for the change of the gradient.

    Use it before any preconditioner, when gradients are noisy and Hessian-vector products are affordable. Avoid it when
    gradients cannot be differentiated, as with some custom kernels: `recursive_momentum` costs the same and needs only
    gradients. Each step costs a gradient and a Hessian-vector product, about two gradients.

    See `recursive_momentum` for how to clip the gradients and how to split a batch into several parts.

    Args:
        eta: Weight of the gradient, in [0, 1], a number or a schedule. The first step takes the gradient itself.
            Numbers from 0.01 to 0.1 are suitable for long runs. Default: `harpg_schedule()`.
        key: Seed of the random draws, an integer or a JAX key. Default: 0. Must be equal on all workers. It draws the
            points where the Hessian is taken.
        applies_to: Which leaves are transformed: a tree of booleans, or a function that makes it from the parameters.
            Default: all. The gradients of the other leaves pass through unchanged.

    Returns:
        A transformation with a `HessianCorrectedMomentumState`: two numbers per parameter. Its `update` needs the extra
        argument `grad_fn`, which is differentiated by `jax.jvp`, or `hvp_fn(vector, point)`, which returns the Hessian
        at `point` times `vector`, on this batch or on another one.

    Raises:
        ValueError: If `eta` is out of its range.
        TypeError: From `update`, if the extra argument is missing or JAX cannot differentiate `grad_fn`; and inside
            `optax.masked` or `optax.partition`, because the method needs the whole tree.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import optax, optkit
        >>> loss = lambda x, batch: jnp.mean((x - batch) ** 2) / 2
        >>> tx = optax.chain(optkit.hessian_corrected_momentum(0.5), optax.scale_by_learning_rate(1.0))
        >>> params = jnp.array(0.0)
        >>> state = tx.init(params)
        >>> for batch in jnp.array([1.0, 2.0]):
        ...     grad_fn = lambda point: jax.grad(loss)(point, batch)
        ...     updates, state = tx.update(grad_fn(params), state, params, grad_fn=grad_fn)
        ...     params = optax.apply_updates(params, updates)
        >>> params
        Array(1.5, dtype=float32)

    Reference:
        arXiv:2302.01734
    """
    refuse_arrays(applies_to=applies_to)
    return corrected_by_hessian(Scope("hessian_corrected_momentum", applies_to), eta, key)


HARPG = Paper(
    "Stochastic Policy Gradient Methods: Improved Sample Complexity for Fisher-non-degenerate Policies",
    "Fatkhullin et al.",
    2023,
    "2302.01734",
)


METHODS = (
    Method(
        name="hessian_corrected_momentum",
        factory=hessian_corrected_momentum,
        kind="transformation",
        compose=descent,
        summary="Averages gradients and corrects the average for the last step by a Hessian-vector product.",
        paper=HARPG,
        also_known_as=("HARPG", "SGDHess"),
        parts=(harpg_schedule,),
        example={"eta": 0.1},
        grid=0.1,
        needs=("grad_fn",),
        golden="harpg",
    ),
)
