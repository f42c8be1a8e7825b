"""Point 4 of the contract: extra arguments and Optax's wrappers."""

import functools
import inspect
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optkit.testing import trees
from optkit.testing.case import Case, compiled, require
from optkit.testing.compilation import changed_types, describe, in_precision

OTHER_RATE = 0.5
INSIDE = {"kernel": True, "bias": False}


def accepts_unknown_extra_args(case: Case) -> None:
    """Accepts extra arguments of `update` that it does not know."""
    params = case.params()
    tx = case.build()
    state = jax.eval_shape(case.init(tx), params)
    try:
        jax.eval_shape(case.update(tx, an_argument_that_nobody_knows=1.0), params, state, params)
    except TypeError as error:
        raise AssertionError(f"update(..., an_argument_that_nobody_knows=1.0) raised {describe(error)}") from error


def hands_on_extra_args(case: Case) -> None:
    """A wrapper passes extra arguments on to the transformations that it was given."""
    inners = {name: value for name, value in case.example.items() if isinstance(value, optax.GradientTransformation)}
    lines = []
    for name, inner in inners.items():
        seen = set()
        tx = case.build(**{name: _recording(inner, seen)})
        params = case.params()
        state = jax.eval_shape(case.init(tx), params)
        jax.eval_shape(case.update(tx, an_argument_of_the_inner=1.0), params, state, params)
        if "an_argument_of_the_inner" not in seen:
            lines.append(f"the extra argument an_argument_of_the_inner did not reach {name}, which saw {sorted(seen)}")
    require(lines)


def names_missing_extra_args(case: Case) -> None:
    """Without an extra argument that it needs, `update` raises a `TypeError` that names it."""
    params = case.params()
    tx = case.build()
    state = jax.eval_shape(case.init(tx), params)
    lines = []
    for name in case.extra_args:
        update = case.update(_dropping(tx, name))
        lines += _unless_type_error(functools.partial(jax.eval_shape, update, params, state, params), name)
    require([f"without the extra argument {line}" for line in lines])


def works_injected(case: Case) -> None:
    """`optax.inject_hyperparams` with float32 hyperparameters works, for float32 and float64 parameters."""
    require(_changed_types_injected(case, ("float32", "float64")))


def works_injected_in_16_bits(case: Case) -> None:
    """Injected float32 hyperparameters do not widen float16 and bfloat16 updates and states."""
    require(_changed_types_injected(case, ("float16", "bfloat16")))


def works_masked(case: Case) -> None:
    """Under a mask, leaves outside pass through, and leaves inside get the same updates as alone.

    The mask is that of `optax.masked`. A transformation that takes `grad_fn`, or another argument that belongs to the
    whole tree, raises a `TypeError` inside `optax.masked`. It has its own argument for the mask: `applies_to`, if
    leaves outside pass through, or `trainable`, if their updates are zero.
    """
    if case.calls_functions:
        lines = _unless_type_error(lambda: _abstract_step(case, optax.masked(case.build(), INSIDE)), "optax.masked")
        gradient = _gradients(case)["bias"]
        for argument, outside in (("applies_to", gradient), ("trainable", jnp.zeros_like(gradient))):
            if argument in inspect.signature(case.factory).parameters:
                updates, _ = case.first_step(case.build(**{argument: INSIDE}))
                lines += trees.value_differences(outside, updates["bias"], f"update outside {argument}")
        require(lines)
        return
    masked = optax.with_extra_args_support(optax.masked(case.build(), INSIDE))
    updates, state = case.first_step(masked)
    alone, alone_state = case.first_step_of_the_kernel_alone
    lines = trees.value_differences(_gradients(case)["bias"], updates["bias"], "gradient outside the mask")
    lines += _differences(alone["kernel"], updates["kernel"], "update inside the mask")
    wasted = len(jax.tree.leaves(state)) - len(jax.tree.leaves(alone_state))
    if wasted:
        lines.append(f"the state has {wasted:+d} leaves beside those for the parameters inside the mask")
    require(lines)


def works_partitioned(case: Case) -> None:
    """In `optax.partition` each part gets the updates that its transformation gives to it alone."""
    labels = {"kernel": "checked", "bias": "other"}
    transforms: dict[Hashable, optax.GradientTransformation] = {"checked": case.build(), "other": optax.sgd(OTHER_RATE)}
    partition = optax.with_extra_args_support(optax.partition(transforms, labels))
    if case.calls_functions:
        require(_unless_type_error(lambda: _abstract_step(case, partition), "optax.partition"))
        return
    updates, _ = case.first_step(partition)
    alone, _ = case.first_step_of_the_kernel_alone
    require(
        _differences(-OTHER_RATE * _gradients(case)["bias"], updates["bias"], "update of the other part")
        + _differences(alone["kernel"], updates["kernel"], "update of its own part")
    )


def works_in_multi_steps(case: Case) -> None:
    """`optax.MultiSteps` over two equal gradients gives zeros, and then the update that one of them gives alone."""
    params, gradients = case.params(), _gradients(case)
    multi: Any = optax.MultiSteps(case.build(), every_k_schedule=2)
    tx = optax.GradientTransformationExtraArgs(multi.init, multi.update)
    update = compiled(case.update(tx))
    nothing, state = update(gradients, case.init(tx)(params), params)
    updates, _ = update(gradients, state, params)
    require(trees.value_differences(optax.tree.zeros_like(params), nothing, "first update"))
    require(case.run_differences(optax.apply_updates(params, updates), "after two equal gradients", step=1))


def works_in_chain(case: Case) -> None:
    """Works between other transformations in `optax.chain`, which passes extra arguments on."""
    chain = optax.chain(optax.clip_by_global_norm(1.0), case.build(), optax.scale(0.5))
    require(changed_types(case, chain, trees.abstract(trees.ORDINARY)))


def takes_schedules(case: Case) -> None:
    """The learning rate may be a schedule; a constant schedule gives the same result as the number."""
    if not (case.rate_is_number and case.tuned == "learning_rate"):
        return
    params, _ = case.train(case.build(learning_rate=optax.constant_schedule(case.rate)))
    require(case.run_differences(params, "with a constant schedule"))


def works_with_map_params(case: Case) -> None:
    """`optax.tree.map_params` finds its way through the state."""
    tx = case.build()
    state = jax.eval_shape(case.init(tx), case.params())
    require(trees.type_differences(state, optax.tree.map_params(tx, lambda leaf: leaf, state), "state"))


def _changed_types_injected(case: Case, dtypes: tuple[str, ...]) -> list[str]:
    lines = []
    for dtype in dtypes:
        with in_precision(dtype):
            params = trees.abstract(trees.ORDINARY, dtype)
            lines += [f"{dtype}: {line}" for line in changed_types(case, case.build_injected(), params)]
    return lines


def _gradients(case: Case) -> Any:
    return case.gradients[0]


def _abstract_step(case: Case, tx: optax.GradientTransformation) -> Any:
    tx = optax.with_extra_args_support(tx)
    params = case.params()
    return jax.eval_shape(case.update(tx), params, jax.eval_shape(case.init(tx), params), params)


def _differences(expected: Any, actual: Any, name: str) -> list[str]:
    size = jax.tree.map(lambda x: 1e-5 * abs(x).max(), expected)
    return trees.value_differences(expected, actual, name, size)


def _unless_type_error(call: Callable[[], Any], name: str) -> list[str]:
    try:
        call()
    except TypeError as error:
        return [] if name.removeprefix("optax.") in str(error) else [f"{name}: the error does not name it: {error}"]
    return [f"{name}: no TypeError was raised"]


def _recording(inner: optax.GradientTransformation, seen: set[str]) -> optax.GradientTransformationExtraArgs:
    """Makes an inner transformation that records which extra arguments it receives."""
    inner = optax.with_extra_args_support(inner)

    def update(updates, state, params=None, **extra_args):
        seen.update(extra_args)
        return inner.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _dropping(tx: optax.GradientTransformationExtraArgs, name: str) -> optax.GradientTransformationExtraArgs:
    """Makes a transformation that does not receive one extra argument."""

    def update(updates, state, params=None, **extra_args):
        return tx.update(updates, state, params, **{key: arg for key, arg in extra_args.items() if key != name})

    return optax.GradientTransformationExtraArgs(tx.init, update)
