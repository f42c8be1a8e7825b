"""Short runs of a transformation, each one program, and its first update."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class Run(NamedTuple):
    """What there is after each step: time first, and then workers where there are some."""

    params: Any
    updates: Any
    states: Any


def first_update(tx, gradients, params=None, **extra_args):
    """The first update, at parameters of zero unless others are given."""
    params = jax.tree.map(jnp.zeros_like, gradients) if params is None else params
    return tx.update(gradients, tx.init(params), params, **extra_args)[0]


def compiled_first_update(tx, gradients, params=None):
    """The first update as one program, where its operations one by one would take longer to compile."""
    return jax.jit(functools.partial(first_update, tx))(gradients, params)


def trajectory(tx, gradients, params=None, *, axis_name=None, **extra_args):
    """Takes a step along each of the gradients, wherever the parameters are.

    Args:
        tx: the transformation, whose updates are added to the parameters.
        gradients: time first, and with `axis_name` then workers.
        params: where the run starts, at zero by default; with `axis_name` of all workers.
        axis_name: the name of the workers' axis, if there are workers.
        **extra_args: of `update`; functions as they are, all others time first and equal on all workers.
    """
    params = jax.tree.map(lambda g: jnp.zeros_like(g[0]), gradients) if params is None else params
    return _run(tx, None, params, gradients, None, axis_name, extra_args)


def descend(tx, gradient, params, inputs=None, *, steps=None, axis_name=None, **extra_args):
    """Takes a step along `gradient(params, input)` for each input; `update` gets it as `grad_fn` too.

    Args:
        tx: as for `trajectory`.
        gradient: a function of parameters and of what `inputs` have in this step.
        params: as for `trajectory`.
        inputs: as the gradients of `trajectory`.
        steps: how many steps, where there are no inputs.
        axis_name: as for `trajectory`.
        **extra_args: as for `trajectory`.
    """
    return _run(tx, gradient, params, inputs, steps, axis_name, extra_args)


def last(tree):
    """What a run has after its last step."""
    return jax.tree.map(lambda x: x[-1], tree)


def last_update(tx, gradients, params=None):
    """The update of the last step of a trajectory, in NumPy."""
    return jax.tree.map(lambda updates: np.asarray(updates)[-1], trajectory(tx, gradients, params).updates)


def flat(tree):
    """All entries of a tree, in NumPy."""
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def flat_rows(tree):
    """All entries of a tree, a row for each step."""
    return np.concatenate([np.asarray(x).reshape(len(x), -1) for x in jax.tree.leaves(tree)], axis=1)


def passing_prev_grads(tx):
    """Gives `prev_grads`, found from `grad_fn` at the previous parameters, in the place of `grad_fn`."""

    def init(params):
        return tx.init(params), params

    def update(updates, state, params, *, grad_fn, **extra_args):
        inner, previous = state
        updates, inner = tx.update(updates, inner, params, prev_grads=grad_fn(previous), **extra_args)
        return updates, (inner, params)

    return optax.GradientTransformationExtraArgs(init, update)


def _run(tx, gradient, params, inputs, steps, axis_name, extra_args):
    functions = tuple((name, value) for name, value in extra_args.items() if callable(value))
    arrays = {name: value for name, value in extra_args.items() if not callable(value)}
    return _program(tx, gradient, functions, steps, axis_name, params, inputs, arrays)


@functools.partial(jax.jit, static_argnums=range(5))
def _program(tx, gradient, functions, steps, axis_name, params, inputs, arrays):
    tx = optax.with_extra_args_support(tx)

    def one_worker(params, inputs, arrays):
        def step(carry, now):
            params, state = carry
            given, arrays = now
            if gradient is None:
                grads, oracle = given, {}
            else:
                grad_fn = lambda point: gradient(point, given)  # noqa: E731
                grads, oracle = grad_fn(params), {"grad_fn": grad_fn}
            updates, state = tx.update(grads, state, params, **oracle, **dict(functions), **arrays)
            params = optax.apply_updates(params, updates)
            return (params, state), Run(params, updates, state)

        return jax.lax.scan(step, (params, tx.init(params)), (inputs, arrays), length=steps)[1]

    if axis_name is None:
        return one_worker(params, inputs, arrays)
    return jax.vmap(one_worker, (0, 1, None), 1, axis_name=axis_name)(params, inputs, arrays)
