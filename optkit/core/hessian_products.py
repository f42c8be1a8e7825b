"""Products of this batch's Hessian and a vector, from the caller or derived from gradients."""

import inspect
from collections.abc import Callable
from typing import Any

import jax

from optkit.core.extra_args import required


def hessian_products_at(
    method: str, grad_fn: Callable[[Any], Any] | None, hvp_fn: Callable[..., Any] | None
) -> Callable[[Any, Any], Any]:
    """Returns a function for the product of a vector and this batch's Hessian at a point that the method chooses.

    Args:
        method: The public name of the method.
        grad_fn: Extra argument of `update`. Its derivative is the Hessian if `hvp_fn` is missing.
        hvp_fn: Extra argument of `update`, called as `hvp_fn(vector, point=point)`.

    Returns:
        A function of the point and the vector.

    Raises:
        TypeError: If both are missing, if `hvp_fn` has no argument `point`, or if `grad_fn` cannot be differentiated.

    Example:
        >>> import jax.numpy as jnp
        >>> hessian_products_at("harpg", lambda x: x**3, None)(jnp.array(2.0), jnp.array(1.0))
        Array(12., dtype=float32, weak_type=True)
    """
    if hvp_fn is None:
        example = "grad_fn=lambda point: jax.grad(loss)(point, batch)"
        return _derivative(method, required(grad_fn, "grad_fn", method, example))
    try:
        inspect.signature(hvp_fn).bind(None, point=None)
    except TypeError as error:
        raise TypeError(
            f"{method} takes the Hessian at a point of its own, so that hvp_fn must have an argument point"
            f" (hvp_fn(vector, point=params)): {error}; without hvp_fn it differentiates grad_fn"
        ) from error
    return lambda point, vector: hvp_fn(vector, point=point)


def _derivative(method: str, grad_fn: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    def product(point, vector):
        try:
            return jax.jvp(grad_fn, (point,), (vector,))[1]
        except (TypeError, ValueError, NotImplementedError) as error:
            jax.eval_shape(grad_fn, point)  # raises the error of grad_fn itself, if there is one
            raise TypeError(
                f"{method} differentiates grad_fn by jax.jvp, and JAX cannot: {error}; pass the product of the Hessian"
                " and a vector as the extra argument hvp_fn: call"
                " update(grads, state, params, hvp_fn=lambda vector, point=params: ...)"
            ) from error

    return product
