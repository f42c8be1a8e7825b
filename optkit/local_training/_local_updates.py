"""Local updates: each worker takes steps of its own optimizer, and every few steps parameters are averaged.

Douillard et al., "DiLoCo: Distributed Low-Communication Training of Language Models", 2023, arXiv:2311.08105.
Algorithm 1. Without an outer optimizer the rule is local SGD's: Stich, 2018, arXiv:1805.09767. Fragments, the delay and
alpha are those of Streaming DiLoCo: Douillard et al., 2025, arXiv:2501.18512. Algorithm 2.
"""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_range
from optkit.core.extra_args import require_params
from optkit.core.injection import refuse_arrays
from optkit.core.overwriting import add_update, overwrite
from optkit.core.precision import widen
from optkit.core.reported import reported_params
from optkit.core.trees import copy
from optkit.core.types import AxisName
from optkit.core.workers import collectives
from optkit.core.workers.on_workers import check_axis_name
from optkit.local_training._fields import named_fields, require_fields
from optkit.local_training._fragments import Fragments, check_fragments, fragments_of
from optkit.local_training._periods import Every, check_every, tick
from optkit.method import Method, Paper, Variant

__all__ = ["LocalUpdatesState", "local_updates", "local_updates_eval_params"]


class LocalUpdatesState(NamedTuple):
    """State of `local_updates`.

    Attributes:
        count: Number of updates so far, equal on all workers.
        since: Number of updates since the last synchronization, equal on all workers.
        period: Number of updates from the last synchronization to the next, equal on all workers.
        inner: State of the inner optimizer. Each worker has its own.
        anchor: The parameters that all workers share, in float32 at least; None without an outer optimizer, a mean,
            fragments or a delay.
        outer: State of the outer optimizer for each fragment, equal on all workers.
        mean: State of the mean for each fragment.
    """

    count: jax.typing.ArrayLike
    since: jax.typing.ArrayLike
    period: jax.typing.ArrayLike
    inner: optax.OptState
    anchor: Any
    outer: tuple[Any, ...]
    mean: tuple[Any, ...]


def local_updates(
    inner: optax.GradientTransformation,
    outer: optax.GradientTransformation | None = None,
    mean: optax.GradientTransformation | None = None,
    every: Every = 8,
    *,
    axis_name: AxisName | None,
    average_state: Collection[str] | None = None,
    fragments: Any | None = None,
    delay: int | None = None,
    alpha: float | jax.Array = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Runs an optimizer on each worker's own gradients, and averages the workers' parameters every few steps.

    The update rule, where i is a worker, y_i its parameters after its own step, and x the anchor, which are the
    parameters that all workers share::

        y_i = y_i + inner(g_i)
        d   = mean over i of (x - y_i)                # every H steps: the outer gradient
        x   = x + outer(d)
        y_i = alpha * y_i + (1 - alpha) * x           # `delay` steps later

    Without `outer`, x is the mean of y_i: local SGD. Give each worker its own gradients, not averaged, and let all
    workers start from the same parameters. In a chain it must be the last transformation, because it overwrites the
    parameters. After a synchronization the parameters of the workers agree to rounding, and the anchor exactly:
    `local_updates_eval_params` returns it. Keep parameters in float32, because those in 16 bits lose small outer steps
    until the anchor has moved far enough.

    Use it when workers are joined by a slow network: it sends the parameters once in H steps. Avoid it when H steps
    with the data of one worker lead away from those of all, which a high learning rate and uneven data bring about.

    Args:
        inner: The optimizer of each worker, with its learning rate. Its state stays with the worker.
        outer: The optimizer of the anchor, for example `optax.sgd(0.7, momentum=0.9, nesterov=True)`, which sees the
            averaged outer gradient. Default: None, the plain mean of the parameters, without an anchor.
        mean: Averages the outer gradients, for example `optkit.compressed_mean(...)`. Default: None, their mean in
            float32 at least.
        every: Number of updates H from one synchronization to the next, an integer, at least 1; or a function that
            returns it from the number of updates done when a round begins, for example `quadratic_synchronization`.
            Default: 8.
        axis_name: Name of the axis over workers. None means that there is only one worker.
        average_state: Names of fields of the inner state that are averaged with the parameters, for example
            `("mu", "nu")` of Adam or `("trace",)` of momentum. Default: None, no field.
        fragments: Parts of the parameters that are synchronized in turn, each once in `every` updates, so that a
            synchronization sends only a part: their number, for parts of about the same size; or a tree of labels from
            0 on, or a function that makes it from the parameters. A label is the number of a fragment, or a NumPy array
            with one number for each layer of leaves whose layers are stacked. Fragment 1 comes first, and 0 last.
            `every` must be a number, a multiple of theirs. Default: None, all at once.
        delay: Number of updates from the mean of a fragment to its arrival in the parameters, an integer, at least 0
            and less than `every`, which must be a number then. Default: None, which stands for 0.
        alpha: Part of the worker's own parameters that stays, in [0, 1]. With 0 they are overwritten. Default: 0.

    Returns:
        An optimizer whose `update` takes the extra argument `weight`: this worker's share in the mean, 0 if it is
        absent. Its state is that of `inner`, three counters, and, with `outer`, `mean`, `fragments` or a delay, the
        anchor and the states of these two. A synchronization sends the parameters, or the fragment, once, in float32
        at least, under one conditional. It needs temporary memory of one copy of the parameters, and with an anchor of
        two copies of what it sends, so with `fragments` less.

    Raises:
        ValueError: If `every`, `delay` or `alpha` is out of its range, `every` is no multiple of the number of
            fragments, or `average_state` is given with fragments; from `init`, if labels are wrong, or the inner state
            has no field of a name; from `update`, if parameters are missing.

    Example:
        >>> import jax
        >>> import optkit
        >>> tx = optkit.local_updates(optax.sgd(0.5), every=2, axis_name="workers")
        >>> def two_steps(params, targets):
        ...     state = tx.init(params)
        ...     for _ in range(2):
        ...         updates, state = tx.update(params - targets, state, params)
        ...         params = optax.apply_updates(params, updates)
        ...     return params
        >>> two_steps = optkit.on_workers(two_steps, axis_name="workers", backend="vmap")
        >>> two_steps(jnp.zeros(2), jnp.array([0.0, 8.0])).tolist()  # 0 and 6 before the mean
        [3.0, 3.0]

    Reference:
        arXiv:2311.08105, arXiv:2501.18512
    """
    refuse_arrays(fragments=fragments, average_state=average_state, delay=delay)
    check_every(every)
    check_range("alpha", alpha, 0.0, 1.0)
    check_fragments(fragments, every, delay, average_state)
    if axis_name is not None:
        check_axis_name(axis_name)
    inner = optax.with_extra_args_support(inner)
    is_anchored = outer is not None or mean is not None or fragments is not None or bool(delay)
    exchange = _outer_steps(outer, mean, axis_name, alpha) if is_anchored else _means(axis_name, alpha)

    def init_fn(params):
        inner_state, zero = inner.init(params), jnp.zeros([], jnp.int32)
        if jax.tree.leaves(params):
            require_fields(average_state, inner_state)
        cut = fragments_of(fragments, params, every)
        return LocalUpdatesState(zero, zero, zero, inner_state, *exchange.init(params, cut))

    def update_fn(updates, state, params=None, *, weight=None, **extra_args):
        require_params(params, "local_updates")
        updates, inner_state = inner.update(updates, state.inner, params, weight=weight, **extra_args)
        cut = fragments_of(fragments, params, every)
        clock = tick(state.count, state.since, state.period, every, cut.number, delay or 0)
        averaged, with_averaged = named_fields(average_state, inner_state)
        shared = Shared(state.anchor, state.outer, state.mean)
        own = jax.tree.map(add_update, widen(params), updates)
        new, averaged, shared = exchange.update(clock, cut, own, averaged, shared, weight=weight, **extra_args)
        count = optax.safe_increment(state.count)
        state = LocalUpdatesState(count, clock.since, clock.period, with_averaged(averaged), *shared)
        return overwrite(new, params), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class Shared(NamedTuple):
    """What workers share, as in `LocalUpdatesState`."""

    anchor: Any
    outer: tuple[Any, ...]
    mean: tuple[Any, ...]


class Exchange(NamedTuple):
    """What workers do together.

    Attributes:
        init: Makes what they share from the parameters and how these are cut.
        update: Takes the clock, the cut, the worker's own parameters in float32 at least, fields of its state, what
            workers share, and extra arguments; returns the new parameters, fields, and what workers share.
    """

    init: Callable[[Any, Fragments], Shared]
    update: Callable[..., tuple[Any, Any, Shared]]


def _means(axis_name: AxisName | None, alpha: float | jax.Array) -> Exchange:
    """Averages parameters in each synchronization, without an anchor."""

    def init_fn(params, cut):
        del params, cut
        return Shared(None, (), ())

    def update_fn(clock, cut, own, averaged, shared, *, weight, **extra_args):
        del cut, extra_args

        def average(own, averaged):
            mean, averaged = collectives.pmean((own, averaged), axis_name, weight)
            return _blend(alpha, own, mean), averaged

        new, averaged = collectives.cond(clock.is_due, average, lambda *same: same, own, averaged)
        return new, averaged, shared

    return Exchange(init_fn, update_fn)


def _outer_steps(
    outer: optax.GradientTransformation | None,
    mean: optax.GradientTransformation | None,
    axis_name: AxisName | None,
    alpha: float | jax.Array,
) -> Exchange:
    """Takes a step of the outer optimizer from the anchor in each synchronization."""
    outer = optax.with_extra_args_support(optax.sgd(1.0) if outer is None else outer)
    mean = optax.with_extra_args_support(_plain_mean(axis_name) if mean is None else mean)

    def init_fn(params, cut):
        anchor = copy(widen(params))
        parts = [cut.part(fragment, anchor) for fragment in range(cut.number)]
        return Shared(anchor, tuple(map(outer.init, parts)), tuple(map(mean.init, parts)))

    def synchronize(fragment, cut, extra_args):
        def step(own, averaged, shared):
            anchor = cut.part(fragment, shared.anchor)
            gradient = jax.tree.map(jnp.subtract, anchor, cut.part(fragment, own))
            gradient, mean_state = mean.update(gradient, shared.mean[fragment], anchor, **extra_args)  # Alg. 1, line 12
            change, outer_state = outer.update(gradient, shared.outer[fragment], anchor, **extra_args)
            anchor = jax.tree.map(add_update, anchor, change)  # Alg. 1, line 14
            return collectives.pmean(averaged, axis_name, extra_args["weight"]), Shared(
                cut.put(fragment, anchor, shared.anchor),
                _replaced(shared.outer, fragment, outer_state),
                _replaced(shared.mean, fragment, mean_state),
            )

        return step

    def update_fn(clock, cut, own, averaged, shared, **extra_args):
        def merge(own, anchor):
            return cut.choose(clock.merged, _blend(alpha, own, anchor), own)

        steps = [synchronize(fragment, cut, extra_args) for fragment in range(cut.number)]
        index = jnp.where(clock.is_due, 1 + clock.due, 0)
        averaged, shared = collectives.switch(index, [lambda _, *same: same, *steps], own, averaged, shared)
        return collectives.cond(clock.is_merged, merge, lambda own, _: own, own, shared.anchor), averaged, shared

    return Exchange(init_fn, update_fn)


def _blend(alpha: float | jax.Array, own: Any, shared: Any) -> Any:
    if not isinstance(alpha, jax.Array) and alpha == 0:
        return shared
    return jax.tree.map(lambda x, y: jnp.asarray(alpha, y.dtype) * (x - y) + y, own, shared)


def _plain_mean(axis_name: AxisName | None) -> optax.GradientTransformationExtraArgs:
    def update_fn(updates, state, params=None, *, weight=None, **extra_args):
        del params, extra_args
        return collectives.pmean(updates, axis_name, weight), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update_fn)


def _replaced(states: tuple[Any, ...], fragment: int, state: Any) -> tuple[Any, ...]:
    return (*states[:fragment], state, *states[fragment + 1 :])


def local_updates_eval_params(state: Any, params: optax.Params) -> optax.Params:
    """Returns the anchor of a run with local updates: the parameters that all workers share, to evaluate and to keep.

    Args:
        state: The state of the optimizer. `local_updates` may be chained with or wrapped in other transformations.
        params: The parameters of the training loop.

    Returns:
        A tree like `params`, as it was after the last outer step. Without an anchor (local SGD), `params` itself.

    Raises:
        ValueError: If the optimizer does not contain `local_updates`.

    Example:
        >>> import optkit
        >>> params = jnp.array([3.0])
        >>> tx = optkit.local_updates(optax.sgd(0.1), optax.sgd(1.0), every=4, axis_name=None)
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> optkit.local_updates_eval_params(state, params + updates)
        Array([3.], dtype=float32)
    """
    return reported_params(state, params, LocalUpdatesState, "anchor", "local_updates_eval_params")


METHODS = (
    Method(
        name="local_updates",
        factory=local_updates,
        kind="wrapper",
        summary="Runs any optimizer on each worker, and averages the workers' parameters every few steps.",
        paper=Paper(
            "DiLoCo: Distributed Low-Communication Training of Language Models", "Douillard et al.", 2023, "2311.08105"
        ),
        also_known_as=("local SGD", "FedAvg", "periodic averaging", "model averaging", "lookahead over workers"),
        parts=(local_updates_eval_params,),
        example={"outer": optax.sgd(0.7, momentum=0.5, nesterov=True), "every": 4, "axis_name": "workers"},
        learning_rate=2e-4,
        grid=3e-2,
        needs=("axis_name",),
        eval_params=local_updates_eval_params,
        variants={
            "averages": Variant({"outer": None, "average_state": ("trace",), "learning_rate": 2e-3}, grid=1e-1),
            "fragments": Variant({"fragments": 2, "delay": 1, "alpha": 0.5}, grid=3e-2),
        },
        golden="diloco",
    ),
)
