"""Curvature of a loss, from products of its Hessian and vectors.

JAX has `jax.experimental.sparse.linalg.lobpcg_standard`, which finds largest eigenvalues only, of vectors only, and of
more than five parameters only. So the extremes are found by Lanczos's method here: C. Lanczos, "An Iteration Method for
the Solution of the Eigenvalue Problem of Linear Differential and Integral Operators", 1950. The bounds of the errors
are those of B. Parlett, "The Symmetric Eigenvalue Problem", 1980, chapter 13.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_integer
from optkit.core.complex_numbers import refuse_complex
from optkit.core.keys import typed
from optkit.core.precision import scalar_dtype, widen
from optkit.core.types import Key


class HessianExtremes(NamedTuple):
    """The largest and the smallest eigenvalue of a Hessian, and how far they can be trusted.

    Attributes:
        largest: The largest eigenvalue. Beside rounding, it is never too large.
        smallest: The smallest eigenvalue. Beside rounding, it is never too small.
        largest_error: Beside rounding, the Hessian has an eigenvalue that is at most this far from `largest`.
        smallest_error: The same for `smallest`.
    """

    largest: jax.Array
    smallest: jax.Array
    largest_error: jax.Array
    smallest_error: jax.Array


def directional_sharpness(value_fn: Callable[[Any], jax.Array], params: Any, direction: Any) -> jax.Array:
    """Measures the curvature of a loss along a direction, such as an optimizer's update.

    What is computed, where H is the Hessian of the loss and u the direction::

        u' H u / |u|^2

    It costs about two gradients. The length and the sign of the direction do not matter.

    Use it to see why an optimizer's steps may be long: the loss after a small step u is `g' u + u' H u / 2` higher,
    where g is the gradient. Avoid it for losses with kinks along the direction, because the Hessian does not see them.

    Args:
        value_fn: A function of the parameters that returns the loss, a scalar. It must be differentiable twice. Of a
            large batch it may be a mean over parts, by `jax.lax.map`.
        params: The parameters. They are passed in at least float32.
        direction: A tree with the structure and shapes of `params`.

    Returns:
        The curvature, a scalar; NaN if the direction is zero, or is not finite.

    Raises:
        ValueError: If `direction` does not have the structure and shapes of `params`.
        TypeError: If a parameter is not a real floating-point number.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> def loss(params):
        ...     return 2 * params["a"] ** 2 + params["b"] ** 2
        >>> params = {"a": jnp.array(1.0), "b": jnp.array(1.0)}
        >>> optkit.directional_sharpness(loss, params, {"a": 5.0, "b": 0.0})
        Array(4., dtype=float32)

    Reference:
        arXiv:2306.00204
    """
    params = _real("directional_sharpness", params)
    expected, given = ([jnp.shape(x) for x in jax.tree.leaves(tree)] for tree in (params, direction))
    if jax.tree.structure(direction) != jax.tree.structure(params) or given != expected:
        raise ValueError(
            "direction must have the structure and shapes of params, got"
            f" {jax.tree.structure(direction)} with shapes {given} for {jax.tree.structure(params)} with {expected}"
        )
    unit, norm = _unit(jax.tree.map(lambda x, p: jnp.asarray(x, p.dtype), direction, params))
    return jnp.where(norm > 0, optax.tree.vdot(unit, _product(value_fn, params, unit)), jnp.nan)


def hessian_extremes(
    value_fn: Callable[[Any], jax.Array], params: Any, *, iterations: int | None = None, key: Key = 0
) -> HessianExtremes:
    """Finds the largest and the smallest eigenvalue of a loss's Hessian, without forming it.

    What is computed (Lanczos's method), where H is the Hessian and q_1 a random unit vector::

        w = H q_j
        a_j = q_j' w
        w = w minus its components along q_1, ..., q_j
        b_j = |w|
        q_(j+1) = w / b_j

    The results are the extreme eigenvalues of the tridiagonal matrix T with a_1, ..., a_k on its diagonal and b_1, ...,
    b_(k-1) beside it. The bound of an error is b_k times the last entry of T's eigenvector.

    Use it to find the largest stable learning rate of gradient descent, `2 / largest`, or whether the parameters are
    near a saddle (`smallest` below 0). Avoid it where memory is short: it keeps `iterations` vectors, each as large as
    the parameters.

    Args:
        value_fn: A function of the parameters that returns the loss, a scalar. It must be differentiable twice. Of a
            large batch it may be a mean over parts, by `jax.lax.map`.
        params: The parameters. They are passed in at least float32.
        iterations: Number of products of the Hessian and a vector, at least 1; each costs about two gradients. More
            than there are parameters are not taken, because that many give all eigenvalues. Where an error is too
            large, take more. Default: None, which stands for 32.
        key: Seed of the random draws, an integer or a JAX key. Default: 0.

    Returns:
        The extremes, with bounds of their errors. They are NaN if the Hessian is not finite.

    Raises:
        ValueError: If `iterations` is not a positive integer, or there are no parameters.
        TypeError: If a parameter is not a real floating-point number.

    Example:
        >>> import jax.numpy as jnp
        >>> import optkit
        >>> def loss(params):
        ...     return 2 * jnp.sum(params["a"] ** 2) - params["b"] ** 2
        >>> found = optkit.hessian_extremes(loss, {"a": jnp.ones(3), "b": jnp.array(1.0)})
        >>> print(f"{found.smallest:.3f} to {found.largest:.3f}")
        -2.000 to 4.000
    """
    iterations = 32 if iterations is None else iterations
    check_integer("iterations", iterations)
    params = _real("hessian_extremes", params)
    size = optax.tree.size(params)
    if not size:
        raise ValueError("params must have at least one entry, got none")
    start = optax.tree.random_like(typed(key), params)
    diagonal, beside, taken = _lanczos(lambda vector: _product(value_fn, params, vector), start, min(iterations, size))

    # What was not taken is replaced by a number between the extremes, and tied to nothing.
    diagonal = jnp.where(taken, diagonal, diagonal[0])
    ties = jnp.where(taken[1:], beside[:-1], 0)
    matrix = jnp.diag(diagonal) + jnp.diag(ties, 1) + jnp.diag(ties, -1)
    finite = jnp.all(jnp.isfinite(matrix))  # LAPACK may never return for what is not.
    values, vectors = jnp.linalg.eigh(jnp.where(finite, matrix, 0))
    last = jnp.sum(taken) - 1
    errors = beside[last] * jnp.abs(vectors[last])
    found = HessianExtremes(values[-1], values[0], errors[-1], errors[0])
    return jax.tree.map(lambda x: jnp.where(finite, x, jnp.nan), found)


def _real(function: str, params: Any) -> Any:
    """Returns the parameters as arrays of at least float32."""
    params = jax.tree.map(jnp.asarray, params)
    refuse_complex(params, function, functions=True)
    for path, x in jax.tree.leaves_with_path(params):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(
                f"params must be floating-point numbers, and the leaf {jax.tree_util.keystr(path) or 'itself'} is"
                f" {x.dtype}: let value_fn close over it"
            )
    return widen(params)


def _product(value_fn: Callable[[Any], jax.Array], params: Any, vector: Any) -> Any:
    return jax.jvp(jax.grad(value_fn), (params,), (vector,))[1]


def _unit(tree: Any) -> tuple[Any, jax.Array]:
    """Divides a tree by its norm, without overflow or underflow; zero stays zero."""

    def divided(tree, number):
        return jax.tree.map(lambda x: (x / jnp.where(number == 0, 1, number)).astype(x.dtype), tree)

    largest = optax.tree.norm(tree, ord=jnp.inf)
    scaled = divided(tree, largest)
    norm = optax.tree.norm(scaled)
    return divided(scaled, norm), largest * norm


def _lanczos(product: Callable[[Any], Any], start: Any, iterations: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Makes an operator tridiagonal on the space of its products with a vector.

    Returns:
        a_j and b_j, and whether each step was taken: none is taken after a b_j of nothing but rounding errors, where
        the space is complete. All have the shape `(iterations,)`.
    """
    dtype = scalar_dtype(start)
    vector, _ = _unit(start)
    basis = jax.tree.map(lambda x: jnp.zeros((iterations, *x.shape), x.dtype), start)

    def step(carry, index):
        basis, vector, scale, taken = carry
        basis = jax.tree.map(lambda rows, x: rows.at[index].set(x), basis, vector)
        image = product(vector)
        diagonal = jnp.asarray(optax.tree.vdot(vector, image))

        def without_components(_, image):
            weights = jax.vmap(optax.tree.vdot, (0, None))(basis, image)
            return jax.tree.map(
                lambda x, rows: (
                    x - jnp.tensordot(jnp.asarray(weights, x.dtype), rows, 1, precision=jax.lax.Precision.HIGHEST)
                ),
                image,
                basis,
            )

        # Against all vectors, because rounding would bring the first ones back; twice is enough (Parlett, 6.9). In a
        # loop, because what it does to many leaves takes long to compile.
        image = jax.lax.fori_loop(0, 2, without_components, image)
        vector, beside = _unit(image)
        scale = jnp.maximum(scale, jnp.maximum(jnp.abs(diagonal), beside))
        complete = beside <= 10 * jnp.finfo(dtype).eps * scale  # False for NaN, which goes on
        goes_on = taken & ~complete
        vector = jax.tree.map(lambda x: jnp.where(goes_on, x, 0), vector)
        return (basis, vector, scale, goes_on), (diagonal, beside, taken)

    carry = (basis, vector, jnp.zeros((), dtype), jnp.array(True))
    return jax.lax.scan(step, carry, jnp.arange(iterations))[1]
