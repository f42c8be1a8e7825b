"""Elastic averaging: workers explore on their own, tied to a common center by an elastic force.

Zhang, Choromanska, LeCun, "Deep learning with Elastic Averaging SGD", 2015, arXiv:1412.6651. Algorithms 1 and 2, in
their synchronous form.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_period, check_range
from optkit.core.extra_args import require_params
from optkit.core.overwriting import add_update, overwrite
from optkit.core.precision import widen
from optkit.core.reported import reported_params
from optkit.core.trees import copy
from optkit.core.types import AxisName
from optkit.core.workers import collectives
from optkit.method import Method, Paper

__all__ = ["elastic_averaging", "elastic_averaging_eval_params"]


class ElasticAveragingState(NamedTuple):
    """State of `elastic_averaging`.

    Attributes:
        count: Number of updates so far, equal on all workers.
        inner: State of the inner optimizer. Each worker has its own.
        center: The center, in float32 at least. From the first update on it is equal on all workers; before, it is a
            worker's own parameters.
    """

    count: jax.typing.ArrayLike
    inner: optax.OptState
    center: optax.Params


def elastic_averaging(
    inner: optax.GradientTransformation,
    alpha: jax.typing.ArrayLike | None = None,
    every: int | jax.Array = 10,
    *,
    axis_name: AxisName | None,
) -> optax.GradientTransformationExtraArgs:
    """Runs an optimizer on each worker, and draws the workers and a common center towards each other.

    The update rule, where c is the center, which starts at the mean of the first parameters, and u_i is the update of
    `inner` for worker i::

        d_i = x_i - c                                # with the first and then every N-th update; 0 with all others
        x_i = x_i + u_i - alpha * d_i
        c = c + alpha * sum over i of d_i

    The force does not change the sum of the center and all workers. Give each worker its own parameters and its own
    gradients, not averaged. In a chain it must be the last transformation, because it overwrites the parameters.
    `elastic_averaging_eval_params` returns the center, which is the point to report.

    Use it to let workers explore different places around one center, with a message only every few steps. Avoid it
    where workers should agree: their distance from the center does not vanish at a constant learning rate; and avoid
    `alpha * (n + 1)` near 2 with n workers, where the center overshoots.

    Args:
        inner: The optimizer of each worker, with its learning rate. With `optax.sgd(momentum=0.9)` the method is
            EAMSGD, but for the gradient, which that takes ahead of the parameters.
        alpha: The elastic force, the learning rate times rho in the paper, above 0; `alpha * (n + 1)` must be below 2
            for n workers. Default: None, which stands for `0.9 / (n * every)`.
        every: N, the number of updates from one exchange to the next, an integer, at least 1. Default: 10.
        axis_name: Name of the axis over workers. None means that there is only one worker.

    Returns:
        An optimizer. Its state is that of `inner`, one number per parameter, and a counter. An update with an exchange
        sums the parameters over the workers once, in float32 at least; the others send nothing.

    Raises:
        ValueError: If an argument is out of its range. From `update`, if `alpha` is too large for the number of
            workers, or if it is called without parameters.

    Example:
        >>> import jax
        >>> import optkit
        >>> tx = optkit.elastic_averaging(optax.sgd(0.0), 0.25, axis_name="workers")
        >>> def step(params):
        ...     updates, state = tx.update(jnp.zeros([]), tx.init(params), params)
        ...     return params + updates, state.center
        >>> jax.vmap(step, axis_name="workers")(jnp.array([0.0, 4.0]))
        (Array([0.5, 3.5], dtype=float32), Array([2., 2.], dtype=float32))

    Reference:
        arXiv:1412.6651.
    """
    check_range("alpha", alpha, 0.0, low_open=True)
    check_period("every", every)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        return ElasticAveragingState(jnp.zeros([], jnp.int32), inner.init(params), copy(widen(params)))

    def update_fn(updates, state, params=None, **extra_args):
        require_params(params, "elastic_averaging")
        updates, inner_state = inner.update(updates, state.inner, params, **extra_args)
        workers = 1 if axis_name is None else jax.lax.axis_size(axis_name)
        force = _force(alpha, workers, every)

        def exchange(wide, center):
            first = state.count == 0
            # The first sum is that of the parameters themselves, from which the center starts.
            origin = jax.tree.map(lambda c: jnp.where(first, jnp.zeros_like(c), c), center)
            total = _sum(optax.tree.sub(wide, origin), axis_name)
            center = jax.tree.map(lambda c, s: jnp.where(first, s / workers, c), center, total)
            pulled = jax.tree.map(lambda x, c: (x - force * (x - c)).astype(x.dtype), wide, center)  # x_i - alpha d_i
            moved = jax.tree.map(lambda c, s: jnp.where(first, c, c + force * s).astype(c.dtype), center, total)
            return pulled, moved

        due = state.count % jnp.asarray(every, state.count.dtype) == 0
        pulled, center = collectives.cond(due, exchange, lambda *both: both, widen(params), state.center)
        new = jax.tree.map(add_update, pulled, updates)
        return overwrite(new, params), ElasticAveragingState(optax.safe_increment(state.count), inner_state, center)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _force(alpha: Any, workers: int, every: Any) -> Any:
    """Returns the elastic force.

    Raises:
        ValueError: If it makes the exchanges of so many workers diverge.
    """
    if alpha is None:
        return 0.9 / (workers * every)
    if not isinstance(alpha, jax.Array) and alpha * (workers + 1) >= 2:
        raise ValueError(
            f"alpha must be below 2 / (n + 1) = {2 / (workers + 1):g} for n = {workers} workers, got {alpha!r}: the"
            " center would overshoot further each time"
        )
    return alpha


def _sum(tree: Any, axis_name: AxisName | None) -> Any:
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def elastic_averaging_eval_params(state: Any, params: optax.Params) -> optax.Params:
    """Returns the center of a run with `elastic_averaging`, which is what to evaluate and to keep.

    Args:
        state: The state of the optimizer. The method may be chained with or wrapped in other transformations.
        params: The parameters of the training loop.

    Returns:
        A tree like `params`. Leaves that a mask keeps from the method are those of the training loop.

    Raises:
        ValueError: If the optimizer does not contain `elastic_averaging`.

    Example:
        >>> import optkit
        >>> tx = optkit.elastic_averaging(optax.sgd(0.1), 0.5, axis_name=None)
        >>> params = jnp.array([3.0])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> optkit.elastic_averaging_eval_params(state, optax.apply_updates(params, updates))
        Array([3.], dtype=float32)
    """
    return reported_params(state, params, ElasticAveragingState, "center", "elastic_averaging_eval_params")


METHODS = (
    Method(
        name="elastic_averaging",
        factory=elastic_averaging,
        kind="wrapper",
        summary="Runs an optimizer on each worker, and draws the workers and a common center towards each other.",
        paper=Paper("Deep learning with Elastic Averaging SGD", "Zhang, Choromanska, LeCun", 2015, "1412.6651"),
        also_known_as=("EASGD", "EAMSGD", "elastic averaging SGD"),
        parts=(elastic_averaging_eval_params,),
        example={"alpha": 0.1, "every": 2, "axis_name": "workers"},
        grid=1e-1,
        needs=("axis_name",),
        eval_params=elastic_averaging_eval_params,
        golden="easgd",
    ),
)
