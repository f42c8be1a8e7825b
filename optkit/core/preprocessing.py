"""Preprocessing of every gradient that a method uses, including those that it gets from `grad_fn`."""

import functools

import jax
import optax

from optkit.core.extra_args import EXTRA_ARGS
from optkit.core.precision import widen

_FUNCTIONS = tuple(name for name, argument in EXTRA_ARGS.items() if argument.points == "own" and name != "hvp_fn")
_GRADIENTS = ("prev_grads", "predicted_grads")


def preprocess_gradients(
    inner: optax.GradientTransformation, preprocess: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """Applies a transformation to every gradient that a method uses, including those that it gets from `grad_fn`.

    The rule, for the gradient g at the parameters x, and for each call of a gradient function at a point y::

        g = preprocess(g, x)
        grad_fn(y) = preprocess(grad_fn(y), y)
        u = inner(g, grad_fn)

    Use it to clip gradients, or to add the gradient of a penalty, for a method that compares gradients at two points
    (`storm`, `page`, `dfedsam`). A transformation earlier in the chain would change only the gradient that enters the
    chain, and a gradient clipped at one point cannot be compared with one that is not clipped at another. Avoid it for
    other methods, because `optax.chain` does the same.

    Args:
        inner: The optimizer that is wrapped, with its learning rate. It may also be a part of an optimizer.
        preprocess: A transformation without state: `optax.clip_by_global_norm(1.0)`, `optax.add_decayed_weights(1e-4)`
            (the gradient of an L2 penalty), or a chain of such transformations. It receives whole trees of gradients,
            in at least float32, and the parameters to which each belongs (None for `prev_grads` and `predicted_grads`).

    Returns:
        A transformation with the state of `inner`. It changes those extra arguments that are gradients, or functions
        that return one. `hvp_fn` cannot be changed, so it is removed: a method that would call it derives the product
        from `grad_fn`, and raises if `grad_fn` is missing.

    Raises:
        ValueError: From `init`, if `preprocess` has a state.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.preprocess_gradients(optkit.page(1.0, probability=0.1), optax.clip(1.0))
        >>> params = jnp.array([3.0, 0.5])
        >>> gradient = lambda point: point
        >>> tx.update(params, tx.init(params), params, grad_fn=gradient, full_grad_fn=gradient)[0]
        Array([-1. , -0.5], dtype=float32)
    """
    inner = optax.with_extra_args_support(inner)
    preprocess = optax.with_extra_args_support(preprocess)

    def init_fn(params):
        if jax.tree.leaves(jax.eval_shape(preprocess.init, params)):
            raise ValueError(
                "preprocess_gradients takes a transformation without state, because gradients at several points pass"
                f" through it in each step; the state of preprocess is {preprocess.init(params)!r}"
            )
        return inner.init(params)

    def update_fn(updates, state, params=None, **extra_args):
        def preprocessed(gradients, point):
            wide, _ = preprocess.update(widen(gradients), preprocess.init(gradients), point)
            return optax.tree.cast_like(wide, gradients)

        def function_of(grad_fn):
            @functools.wraps(grad_fn)
            def preprocessed_grad_fn(point, *others):
                return preprocessed(grad_fn(point, *others), point)

            return preprocessed_grad_fn

        changed = {name: function_of(extra_args[name]) for name in _FUNCTIONS if extra_args.get(name) is not None}
        changed |= {
            name: preprocessed(extra_args[name], None) for name in _GRADIENTS if extra_args.get(name) is not None
        }
        others = {name: argument for name, argument in extra_args.items() if name != "hvp_fn"}
        return inner.update(preprocessed(updates, params), state, params, **{**others, **changed})

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
