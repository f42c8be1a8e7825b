"""Hyperparameters that `optax.inject_hyperparams` may hold in its state, and arguments that it must leave alone."""

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
    """Returns the arguments of a function that cannot be traced, by their annotations.

    An argument whose annotation holds `jax.Array`, by itself or in a union, may be an array in an optimizer's state: a
    number, a schedule, a key. All others are static: shapes, loop lengths and Python branches depend on them, or they
    are functions, trees, words or dtypes.

    Args:
        function: a factory of transformations, or `functools.partial` of one.

    Returns:
        Names of arguments, as `static_args` of `optax.inject_hyperparams` takes them.

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
    """Keeps hyperparameters in the optimizer's state, as `optax.inject_hyperparams` does, and leaves static ones alone.

    Optax's own turns every number into an array and calls every function as a schedule. Here the arguments that cannot
    be traced are found from the annotations of `factory`, see `static_arguments`, so that functions and trees (`mask`,
    `weight_dimension_numbers`, `projector`, `mixing`) and sizes (`rank`, `window`) may be passed as they are.

    Use it to schedule any hyperparameter, to change one during training, and to train over many of them under `vmap`.

    Args:
        factory: a function of optkit, or any other one with annotations, that builds a transformation.
        static_args: further arguments that are to be left alone: one name or several.
        hyperparam_dtype: dtype of injected floating-point hyperparameters; by default the parameters' highest.

    Returns:
        A function with the arguments of `factory`. The state of its transformations is Optax's, with the current
        hyperparameters as the dictionary `hyperparams`.

    Raises:
        ValueError: if `factory` has no argument of a name in `static_args`.

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
    """Raises if a static argument arrives as an array, as a bare `optax.inject_hyperparams` makes one.

    Args:
        **arguments: static arguments of a public function, by name. Trees of arrays pass.

    Raises:
        TypeError: if one is a `jax.Array`, traced or not; the message names it and `static_args`.

    Example:
        >>> refuse_arrays(rank=4, mask={"kernel": True, "bias": False})
    """
    for name, value in arguments.items():
        if isinstance(value, jax.Array):
            raise TypeError(
                f"{name} cannot be an array, got {value}: build the optimizer by optkit.inject_hyperparams, or name"
                f" {name!r} in static_args of optax.inject_hyperparams, which makes arrays of numbers and of what"
                " functions return"
            )


def refuse_scalar(argument: str, x: Any) -> None:
    """Raises if a function that a bare `optax.inject_hyperparams` would call as a schedule got the count of steps.

    Call it first in public functions that users pass to optimizers.

    Args:
        argument: the optimizer's argument that takes the function.
        x: what the function was called with: trees and arrays with axes pass.

    Raises:
        TypeError: if it is a single number held by a `jax.Array`; the message names `argument` and `static_args`.

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
