"""CO2: workers train alone between outer steps, each of which uses the mean of the round before.

Sun et al., "CO2: Efficient Distributed Training with Full Communication-Computation Overlap", 2024, arXiv:2401.16265,
Algorithm 1. The formula of the paper's penalty for stale means could not be found: the authors' code divides by a
constant, as `gap_penalty` does, and `gap_fn` is for formulas of your own. That code calls a clip without using its
result; here the momentum is clipped, as in the paper.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_period, check_range
from optkit.core.complex_numbers import refuse_complex
from optkit.core.extra_args import require_params
from optkit.core.injection import refuse_arrays
from optkit.core.non_finite import nan_for_infinite
from optkit.core.overwriting import add_update, overwrite
from optkit.core.precision import widen
from optkit.core.reported import reported_params
from optkit.core.trees import copy, is_function
from optkit.core.types import AxisName
from optkit.core.workers import collectives
from optkit.method import Method, Paper, Variant

__all__ = ["co2", "co2_eval_params"]


class Co2State(NamedTuple):
    """State of `co2`; trees have the shapes of the parameters, and are in float32 at least.

    Attributes:
        count: Number of updates so far, equal on all workers.
        inner: State of the inner optimizer. Each worker has its own.
        anchor: Where all workers began this round, equal on all workers.
        gradient: How far the mean of the workers moved in the last round, from its end to its start; equal on all
            workers.
        momentum: Momentum of the outer steps, equal on all workers.
        previous: Where all workers began the last round, equal on all workers. None without `gap_fn`.
    """

    count: jax.typing.ArrayLike
    inner: optax.OptState
    anchor: optax.Params
    gradient: optax.Updates
    momentum: optax.Updates
    previous: Any


def co2(
    inner: optax.GradientTransformation,
    outer_learning_rate: jax.typing.ArrayLike = 1.0,
    outer_momentum: jax.typing.ArrayLike = 0.2,
    every: int | jax.Array = 48,
    *,
    axis_name: AxisName | None,
    gap_penalty: jax.typing.ArrayLike = 1.0,
    gap_fn: Callable[[Any, Any], Any] | None = None,
    clip_threshold: jax.typing.ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Lets workers train alone, and moves all of them by the mean of their last round while they are in the next one.

    The rule at the end of round t, where A_t is the anchor at which the round began, y_i is where worker i has arrived,
    and B_t is the mean over the workers of y_i::

        m = outer_momentum * m - (A_{t-1} - B_{t-1}) / gap_penalty
        m = clip(m, -clip_threshold, clip_threshold)
        A_{t+1} = A_t + outer_learning_rate * m
        y_i = A_{t+1}

    The first round only fills the pipeline: after it, all parameters are back at the start. Give each worker the same
    first parameters and its own gradients, not averaged. In a chain it must be the last transformation, because it
    overwrites the parameters. `co2_eval_params` returns the anchor, which is the point to report.

    Use it to study training on slow networks with means that arrive one round late. Avoid it on fast networks, where a
    mean that is not stale converges in fewer steps, and with long rounds at a large learning rate: where a round goes
    the share q of the way to a minimum, outer steps swing ever further unless `outer_learning_rate * q` is below `1 -
    outer_momentum`. The rule leaves a whole round for the mean to travel, but XLA finishes it within the step that
    starts it: this function gives the numbers of CO2, not its time.

    Args:
        inner: The optimizer of each worker, with its learning rate. Its state is never averaged.
        outer_learning_rate: Length of the outer steps, at least 0. Default: 1.
        outer_momentum: Decay rate of the outer momentum, in [0, 1). The paper takes 0.2 to 0.6, more for more workers.
            Default: 0.2.
        every: Number of updates in a round, an integer, at least 1. Default: 48.
        axis_name: Name of the axis over workers. None means that there is only one worker.
        gap_penalty: Divides the outer gradient, because it is stale; above 0. Default: 1.
        gap_fn: A function of A_t and A_{t-1} that returns one more divisor, a tree like the parameters or one number
            for all. Default: None, without.
        clip_threshold: Largest magnitude of an entry of the momentum, above 0. Default: None, without clipping.

    Returns:
        An optimizer. Its state is that of `inner`, three numbers per parameter (four with `gap_fn`), and a counter. An
        update at the end of a round sums the parameters over the workers once, in float32 at least; the others send
        nothing.

    Raises:
        ValueError: If an argument is out of its range. From `update`, if it is called without parameters.
        TypeError: If `gap_fn` is not a function.

    Example:
        >>> import jax
        >>> import optkit
        >>> tx = optkit.co2(optax.sgd(0.5), every=1, axis_name="workers")
        >>> def two_rounds(target):
        ...     params = jnp.zeros([])
        ...     state = tx.init(params)
        ...     for _ in range(2):
        ...         updates, state = tx.update(params - target, state, params)
        ...         params = optax.apply_updates(params, updates)
        ...     return params
        >>> jax.vmap(two_rounds, axis_name="workers")(jnp.array([1.0, 3.0]))
        Array([1., 1.], dtype=float32)

    Reference:
        arXiv:2401.16265.
    """
    check_range("outer_learning_rate", outer_learning_rate, 0.0)
    check_range("outer_momentum", outer_momentum, 0.0, 1.0, high_open=True)
    check_period("every", every)
    check_range("gap_penalty", gap_penalty, 0.0, low_open=True)
    check_range("clip_threshold", clip_threshold, 0.0, low_open=True)
    refuse_arrays(axis_name=axis_name, gap_fn=gap_fn)
    if gap_fn is not None and not is_function(gap_fn):
        raise TypeError(f"gap_fn must be a function of two trees, or None, got {gap_fn!r}")
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        if clip_threshold is not None:
            refuse_complex(params, "co2 with clip_threshold", functions=True)
        anchor = copy(widen(params))
        gradient, momentum = optax.tree.zeros_like(anchor), optax.tree.zeros_like(anchor)
        previous = None if gap_fn is None else copy(anchor)
        return Co2State(jnp.zeros([], jnp.int32), inner.init(params), anchor, gradient, momentum, previous)

    def outer_step(state):
        """Returns A_{t+1} and its momentum."""
        gap = 1.0 if gap_fn is None else gap_fn(state.anchor, state.previous)
        gradient = jax.tree.map(lambda by, part: jax.tree.map(lambda g: g / by, part), gap, state.gradient)
        momentum = jax.tree.map(
            lambda m, g: (outer_momentum * m - g / gap_penalty).astype(m.dtype), state.momentum, gradient
        )
        if clip_threshold is not None:
            limit = jnp.asarray(clip_threshold)
            momentum = jax.tree.map(lambda m: jnp.clip(m, -limit, limit).astype(m.dtype), nan_for_infinite(momentum))
        anchor = jax.tree.map(lambda a, m: (a + outer_learning_rate * m).astype(a.dtype), state.anchor, momentum)
        return anchor, momentum

    def update_fn(updates, state, params=None, **extra_args):
        require_params(params, "co2")
        updates, inner_state = inner.update(updates, state.inner, params, **extra_args)
        local = jax.tree.map(add_update, widen(params), updates)

        def end_round(local, state):
            anchor, momentum = outer_step(state)
            gradient = collectives.pmean(optax.tree.sub(state.anchor, local), axis_name)  # A_t - B_t
            previous = None if gap_fn is None else state.anchor
            return anchor, state._replace(anchor=anchor, gradient=gradient, momentum=momentum, previous=previous)

        def go_on(local, state):
            return local, state

        due = (state.count + 1) % jnp.asarray(every, state.count.dtype) == 0
        new, state = collectives.cond(due, end_round, go_on, local, state._replace(inner=inner_state))
        return overwrite(new, params), state._replace(count=optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def co2_eval_params(state: Any, params: optax.Params) -> optax.Params:
    """Returns the anchor of a run with `co2`, which is equal on all workers and is what to evaluate and to keep.

    Args:
        state: The state of the optimizer. The method may be chained with or wrapped in other transformations.
        params: The parameters of the training loop.

    Returns:
        A tree like `params`. Leaves that a mask keeps from the method are those of the training loop.

    Raises:
        ValueError: If the optimizer does not contain `co2`.

    Example:
        >>> import optkit
        >>> tx = optkit.co2(optax.sgd(0.1), axis_name=None)
        >>> params = jnp.array([3.0])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> optkit.co2_eval_params(state, optax.apply_updates(params, updates))
        Array([3.], dtype=float32)
    """
    return reported_params(state, params, Co2State, "anchor", "co2_eval_params")


METHODS = (
    Method(
        name="co2",
        factory=co2,
        kind="wrapper",
        summary="Lets workers train alone, and moves all of them by the mean of their last round.",
        paper=Paper(
            "CO2: Efficient Distributed Training with Full Communication-Computation Overlap",
            "Sun et al.",
            2024,
            "2401.16265",
        ),
        also_known_as=("CO2", "stale outer step", "overlapped local SGD"),
        parts=(co2_eval_params,),
        example={"outer_learning_rate": 0.3, "every": 4, "axis_name": "workers"},
        grid=1e-1,
        needs=("axis_name",),
        variants={"clipped": Variant({"clip_threshold": 1.0}, grid=1e-1)},
        eval_params=co2_eval_params,
    ),
)
