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


def in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Runs a transformation in float32 at least and gives its updates in the parameters' dtype.

    A bfloat16 or float16 second moment overflows, underflows, or stops moving; and a learning rate that
    `optax.inject_hyperparams` holds in float32 promotes the updates of 16-bit parameters. Named optimizers therefore
    stand inside this wrapper. Float32 and float64 parameters are computed in their own dtype.

    Args:
        inner: a whole optimizer, learning rate included. Its state is that of float32 parameters where they have fewer
            bits; an inner `mu_dtype` still holds.

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
        wide_updates, state = inner.update(widen(updates), state, wide_params, **extra_args)
        return optax.tree.cast_like(wide_updates, like), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
