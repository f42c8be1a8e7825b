"""Arithmetic in float32 at least, whatever the parameters' dtype."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def widen(tree: Any) -> Any:
    """Casts floating-point leaves of fewer than 32 bits to float32 and leaves the others as they are."""

    def cast(x):
        narrow = jnp.issubdtype(x.dtype, jnp.floating) and jnp.finfo(x.dtype).bits < 32
        return x.astype(jnp.float32) if narrow else x

    return jax.tree.map(cast, tree)


def scalar_dtype(tree: Any) -> Any:
    """Returns the dtype of statistics over a tree: float32, or float64 where leaves have it.

    Example:
        >>> scalar_dtype({"w": jnp.zeros(3, jnp.bfloat16)})
        dtype('float32')
    """
    return jnp.result_type(jnp.float32, *(x.dtype for x in jax.tree.leaves(tree)))


_FUNCTIONS_OF_PARAMS = ("grad_fn", "full_grad_fn", "value_fn", "hvp_fn")


def in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Runs a transformation in float32 at least and gives its updates in the parameters' dtype.

    A bfloat16 or float16 second moment overflows, underflows, or stops moving; and a learning rate that
    `optax.inject_hyperparams` holds in float32 promotes the updates of 16-bit parameters. Named optimizers therefore
    stand inside this wrapper. Float32 and float64 parameters are computed in their own dtype.

    Args:
        inner: a whole optimizer, learning rate included. Its state is that of float32 parameters where they have fewer
            bits; an inner `mu_dtype` still holds. It calls the functions of the parameters among the extra arguments
            (`grad_fn`, `full_grad_fn`, `value_fn`, `hvp_fn`) with points in float32, they see the parameters' dtype.

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

        def in_own_dtype(function):
            return lambda *trees: widen(function(*(optax.tree.cast_like(tree, like) for tree in trees)))

        functions = {name: in_own_dtype(extra_args[name]) for name in _FUNCTIONS_OF_PARAMS if extra_args.get(name)}
        wide_updates, state = inner.update(widen(updates), state, wide_params, **{**extra_args, **functions})
        return optax.tree.cast_like(wide_updates, like), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
