"""Arithmetic in at least float32, whatever the dtype of the parameters is."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optkit.core.extra_args import EXTRA_ARGS


def widen(tree: Any) -> Any:
    """Casts floating-point leaves of fewer than 32 bits to float32 and leaves the others as they are.

    Args:
        tree: Arrays, or `jax.ShapeDtypeStruct`.

    Returns:
        The tree.

    Example:
        >>> widen(jnp.ones(2, jnp.bfloat16)).dtype
        dtype('float32')
    """

    def cast(x):
        if not jnp.issubdtype(x.dtype, jnp.floating) or jnp.finfo(x.dtype).bits >= 32:
            return x
        return x.update(dtype=jnp.float32) if isinstance(x, jax.ShapeDtypeStruct) else x.astype(jnp.float32)

    return jax.tree.map(cast, tree)


def scalar_dtype(tree: Any) -> Any:
    """Returns the dtype of real statistics over a tree: float32, or float64 if a leaf has it.

    Example:
        >>> scalar_dtype({"w": jnp.zeros(3, jnp.bfloat16)})
        dtype('float32')
    """
    inexact = [x.dtype for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    dtypes = [jnp.dtype(jnp.float32), *(jnp.finfo(dtype).dtype for dtype in inexact)]
    return max(dtypes, key=lambda dtype: dtype.itemsize)


def in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Runs an optimizer in at least float32 and returns its updates in the dtype of the parameters.

    A second moment in bfloat16 or float16 overflows, underflows, or stops moving. A learning rate that
    `optax.inject_hyperparams` keeps in float32 would also turn the updates of 16-bit parameters into float32. The named
    optimizers of optkit therefore use this wrapper already. Float32 and float64 parameters keep their own dtype.

    Use it for a chain of your own on 16-bit parameters. Avoid it when memory is short, because a state that is shaped
    like 16-bit parameters takes twice the bytes.

    Args:
        inner: The optimizer that is wrapped, with its learning rate. Its state is made from float32 parameters if the
            parameters have fewer bits; an inner `mu_dtype` still holds. Of the functions among the extra arguments,
            those that return gradients (`grad_fn`, `full_grad_fn`, `hvp_fn`, `minibatch_grad_fn`) are called with
            points in the dtype of the parameters. `value_fn` and `residual_fn` are called with float32 points, because
            16 bits would lose small differences.

    Returns:
        A transformation with the state of `inner`. Updates have the dtype of the parameters, or that of the incoming
        updates if `update` is called without parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = in_float32(optax.adam(1e-3))
        >>> params = jnp.ones(3, jnp.bfloat16)
        >>> updates, state = tx.update(params * 1e-4, tx.init(params), params)
        >>> updates.dtype, state[0].nu.dtype
        (dtype(bfloat16), dtype('float32'))
    """
    inner = optax.with_extra_args_support(inner)

    def init_fn(params):
        return inner.init(widen(params))

    def update_fn(updates, state, params=None, **extra_args):
        like = updates if params is None else params
        wide_params = None if params is None else widen(params)

        def handed_on(name, argument):
            points = EXTRA_ARGS[name].points if name in EXTRA_ARGS else None
            if points is None or argument is None:
                return argument
            cast = widen if points == "float32" else functools.partial(optax.tree.cast_like, other_tree=like)

            @functools.wraps(argument)
            def with_points_cast(point, /, *others, **points):
                return widen(argument(cast(point), *others, **{name: cast(x) for name, x in points.items()}))

            return with_points_cast

        handed = {name: handed_on(name, argument) for name, argument in extra_args.items()}
        # Float64 gradients of float32 parameters, which occur if x64 was switched on late, would widen the state.
        wide_gradients = widen(updates) if wide_params is None else optax.tree.cast_like(updates, wide_params)
        wide_updates, state = inner.update(wide_gradients, state, wide_params, **handed)
        return optax.tree.cast_like(wide_updates, like), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
