"""SPIDER: steps of fixed length along a full gradient that is carried on by the batches' changes.

Fang, Li, Lin, Zhang, "SPIDER: Near-Optimal Non-Convex Optimization via Stochastic Path Integrated Differential
Estimator", 2018, arXiv:1807.01695. The rule is the paper's.
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
    """Steps of `1 / (2 smoothness)` times the estimate, or of length `learning_rate` if that is shorter."""

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
        summary="Steps of fixed length along a full gradient that is carried on by the batches' changes.",
        paper=SPIDER,
        also_known_as=("SPIDER-SFO", "stochastic path-integrated differential estimator"),
        example={"learning_rate": 3e-3, "anchor_every": 2},
        grid=3e-2,
        needs=("grad_fn", "full_grad_fn"),
    ),
)
