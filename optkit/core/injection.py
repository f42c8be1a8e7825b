"""Hyperparameters that may be arrays in the state of `optax.inject_hyperparams`, and arguments that must not be."""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optkit.core.types import DTypeLike


def static_arguments(function: Callable[..., Any]) -> tuple[str, ...]:
    """Returns the names of a function's arguments that cannot be traced, found from their annotations.

    An argument whose annotation contains `jax.Array`, alone or in a union, may be an array in an optimizer's state: a
    number, a schedule, or a key. All others are static, either because shapes, loop lengths or Python branches depend
    on them, or because they are functions, trees, strings or dtypes.

    Args:
        function: A function that builds a transformation, or `functools.partial` of one.

    Returns:
        Names of arguments, in the form of `static_args` of `optax.inject_hyperparams`.

    Example:
        >>> def factory(learning_rate: optax.ScalarOrSchedule, rank: int | None = None): ...
        >>> static_arguments(factory)
        ('rank',)
    """
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    return tuple(parameter.name for parameter in parameters if not _holds_array(parameter.annotation))


def inject_hyperparams(
    factory: Callable[..., optax.GradientTransformation],
    static_args: str | Iterable[str] = (),
    hyperparam_dtype: DTypeLike | None = None,
) -> Callable[..., optax.GradientTransformationExtraArgs]:
    """Keeps hyperparameters in the optimizer's state, as `optax.inject_hyperparams` does, but not static arguments.

    Optax's function turns every number into an array and calls every function as a schedule. This one finds from the
    annotations of `factory` which arguments cannot be traced (see `static_arguments`). Functions and trees (`mask`,
    `weight_dimension_numbers`, `projector`, `mixing`) and sizes (`rank`, `window`) may therefore be passed as usual.

    Use it to schedule any hyperparameter, to change one during training, or to train with many values of one under
    `vmap`. Avoid it for hyperparameters that never change, because it only adds them to the state.

    Args:
        factory: A function that builds a transformation: one of optkit, or any other one with annotations.
        static_args: Further arguments that stay as they are: one name or several. Default: none.
        hyperparam_dtype: Dtype of the floating-point hyperparameters. Default: the highest dtype of the parameters.

    Returns:
        A function with the arguments of `factory`. Its transformations have the state of Optax's, with the current
        hyperparameters in the dictionary `hyperparams`.

    Raises:
        ValueError: If `factory` has no argument with a name in `static_args`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> tx = optkit.inject_hyperparams(optkit.dion)(learning_rate=0.1, rank=1)
        >>> state = tx.init({"kernel": jnp.ones((2, 3))})
        >>> state.hyperparams["learning_rate"]
        Array(0.1, dtype=float32)
        >>> state.hyperparams["learning_rate"] = 0.05  # from here on
    """
    given = {static_args} if isinstance(static_args, str) else set(static_args)
    dtype = None if hyperparam_dtype is None else jnp.dtype(hyperparam_dtype)
    wrapped = optax.inject_hyperparams(factory, given.union(static_arguments(factory)), dtype)
    return functools.wraps(factory)(wrapped)


def refuse_arrays(**arguments: Any) -> None:
    """Raises if a static argument is an array, as a bare `optax.inject_hyperparams` would make it.

    Args:
        **arguments: Static arguments of a public function, by name. Trees of arrays are accepted.

    Raises:
        TypeError: If one is a `jax.Array`, traced or not. The message names it and `static_args`.

    Example:
        >>> refuse_arrays(rank=4, mask={"kernel": True, "bias": False})
    """
    for name, value in arguments.items():
        if isinstance(value, jax.Array):
            raise TypeError(
                f"{name} cannot be an array, got {value}: build the optimizer by optkit.inject_hyperparams, or name"
                f" {name!r} in static_args of optax.inject_hyperparams, which turns numbers, and the results of"
                " functions, into arrays"
            )


def refuse_scalar(argument: str, x: Any) -> None:
    """Raises if a function that is not a schedule was called as one by a bare `optax.inject_hyperparams`.

    Call it first in public functions that users pass to optimizers.

    Args:
        argument: The optimizer's argument that takes the function.
        x: What the function was called with. Trees, and arrays with at least one axis, are accepted.

    Raises:
        TypeError: If it is a `jax.Array` without axes. The message names `argument` and `static_args`.

    Example:
        >>> import jax.numpy as jnp
        >>> refuse_scalar("orthogonalize", jnp.ones((2, 2)))
    """
    if isinstance(x, jax.Array) and not x.ndim:
        raise TypeError(
            f"a function given as {argument} was called with the number {x}, as optax.inject_hyperparams calls"
            f" schedules: build the optimizer by optkit.inject_hyperparams, or name {argument!r} in static_args of"
            " optax.inject_hyperparams"
        )


def _holds_array(annotation: Any) -> bool:
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        return any(map(_holds_array, typing.get_args(annotation)))
    return annotation is jax.Array
