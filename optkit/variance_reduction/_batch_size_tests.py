"""Tests of the gradient's noise that decide how large the next batch must be.

Lau, Liu, Kolar, "AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods", 2024, arXiv:2402.11215. The
tests are those of the authors' code (its tests.py), which takes inner products leaf by leaf, whereas the paper takes
them over the whole vector; `scope` selects one of them. The coordinate-wise test is only in the paper.

Each test asks for the batch size at which the variance of some linear function of the samples' gradients, divided by
the squared norm of the mean gradient, would equal a given square. In these units nothing overflows unless the squared
gradients do.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_option, check_range
from optkit.core.linalg.explicit_axes import replicate
from optkit.method import Method, Paper

__all__ = ["augmented_inner_product_test", "coordinate_test", "inner_product_test", "norm_test", "orthogonality_test"]

Scope = Literal["leaf", "global"]


class GradientSamples(NamedTuple):
    """The information that a test receives.

    Attributes:
        mean: The mean gradient over all samples.
        variances: A function that takes a linear function of a sample's gradient, whose values are trees, and estimates
            the variance over the samples of each entry.
        total_variance: The same, but the sum over all entries. Workers then send nothing except this sum.
    """

    mean: Any
    variances: Callable[[Callable[[Any], Any]], Any]
    total_variance: Callable[[Callable[[Any], Any]], jax.Array]


BatchSizeTest = Callable[[GradientSamples], jax.Array]
"""A test returns the batch size that it asks for: a real number, infinity if none is enough, NaN if any is enough."""


def norm_test(eta: jax.typing.ArrayLike = 0.1) -> BatchSizeTest:
    """Asks that the noise of the mean gradient be a fraction of its norm.

    The batch size that it asks for, where var is the sum of the variances of one sample's gradient over all entries::

        var / (eta * |mean|)**2

    Use it as the first choice of a test for `adaptive_batch_size`. Avoid it when batches must stay small, because noise
    across the mean gradient counts as much as noise along it.

    Args:
        eta: The largest fraction, above 0. Default: 0.1. A smaller one is stricter: the batch grows with its inverse
            square.

    Returns:
        A test for `adaptive_batch_size`.

    Raises:
        ValueError: If `eta` is not positive.

    Example:
        >>> import optkit
        >>> tx = optkit.adaptive_batch_size(optkit.norm_test(eta=0.5), 8, max_batch_size=1024)

    Reference:
        arXiv:2402.11215
    """
    check_range("eta", eta, 0.0, low_open=True)

    def test(samples):
        return samples.total_variance(lambda g: g) / (eta**2 * optax.tree.norm(samples.mean, squared=True))

    return test


def inner_product_test(theta: jax.typing.ArrayLike = 0.1, scope: Scope = "leaf") -> BatchSizeTest:
    """Asks that the inner products of batch gradients with the mean gradient vary little.

    The batch size that it asks for, where var is taken over the gradients g of single samples::

        var(<g, mean>) / (theta * |mean|**2)**2

    Use it when `norm_test` asks for batches that are too large. Avoid it alone when noise across the mean gradient
    matters, because it measures only the noise along it; see `augmented_inner_product_test`.

    Args:
        theta: Largest standard deviation of these products, in units of the squared norm of the mean gradient, above 0.
            Default: 0.1.
        scope: `"leaf"` adds up the variances of the inner products of all leaves, as the authors' code does. `"global"`
            takes the inner product over all leaves, as their paper does. Default: `"leaf"`.

    Returns:
        A test for `adaptive_batch_size`.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:
        >>> import optkit
        >>> tx = optkit.adaptive_batch_size(optkit.inner_product_test(theta=0.5), 8, max_batch_size=1024)

    Reference:
        arXiv:2402.11215
    """
    check_range("theta", theta, 0.0, low_open=True)
    check_option("scope", scope, Scope)

    def test(samples):
        norm = optax.tree.norm(samples.mean)
        direction = optax.tree.scale(_inverse(norm), samples.mean)
        return samples.total_variance(lambda g: _inner_products(g, direction, scope)) / (theta * norm) ** 2

    return test


def orthogonality_test(nu: jax.typing.ArrayLike = 0.1, scope: Scope = "leaf") -> BatchSizeTest:
    """Asks that the part of batch gradients orthogonal to the mean gradient be small.

    The batch size that it asks for, where var is the sum of the variances over all entries, taken over the gradients g
    of single samples::

        var(g - <g, mean> / |mean|**2 * mean) / (nu * |mean|)**2

    Use it together with the inner product test, as in `augmented_inner_product_test`. Avoid it alone, because it does
    not measure the noise along the mean gradient.

    Args:
        nu: Largest standard deviation of the orthogonal part, in units of the norm of the mean gradient, above 0.
            Default: 0.1.
        scope: Whether the part is orthogonal to the mean gradient in each leaf (`"leaf"`, as in the authors' code) or
            over all leaves (`"global"`, as in their paper). Default: `"leaf"`.

    Returns:
        A test for `adaptive_batch_size`.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:
        >>> import optkit
        >>> tx = optkit.adaptive_batch_size(optkit.orthogonality_test(nu=0.5), 8, max_batch_size=1024)

    Reference:
        arXiv:2402.11215
    """
    check_range("nu", nu, 0.0, low_open=True)
    check_option("scope", scope, Scope)

    def test(samples):
        squared_norm = optax.tree.norm(samples.mean, squared=True)
        if scope == "global":
            direction = optax.tree.scale(_inverse(jnp.sqrt(squared_norm)), samples.mean)
        else:
            direction = jax.tree.map(lambda m: _inverse(optax.tree.norm(m)) * m, samples.mean)

        def orthogonal_part(gradient):
            products = _inner_products(gradient, direction, scope)
            products = jax.tree.broadcast(products, gradient)
            return jax.tree.map(lambda g, product, d: g - product * d, gradient, products, direction)

        return samples.total_variance(orthogonal_part) / (nu**2 * squared_norm)

    return test


def augmented_inner_product_test(
    theta: jax.typing.ArrayLike = 0.1, nu: jax.typing.ArrayLike = 0.1, scope: Scope = "leaf"
) -> BatchSizeTest:
    """Asks for the larger of the batch sizes of the inner product test and the orthogonality test.

    The batch size that it asks for::

        max(inner_product_test(theta, scope), orthogonality_test(nu, scope))

    Use it when the bounds on the noise along and across the mean gradient should differ. Avoid it when one bound is
    enough: `norm_test` has one argument.

    Args:
        theta: See `inner_product_test`. Default: 0.1.
        nu: See `orthogonality_test`. Default: 0.1.
        scope: See `inner_product_test`. Default: `"leaf"`.

    Returns:
        A test for `adaptive_batch_size`.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:
        >>> import optkit
        >>> tx = optkit.adaptive_batch_size(optkit.augmented_inner_product_test(), 8, max_batch_size=1024)

    Reference:
        arXiv:2402.11215
    """
    along, across = inner_product_test(theta, scope), orthogonality_test(nu, scope)
    return lambda samples: jnp.maximum(along(samples), across(samples))


def coordinate_test(eta: jax.typing.ArrayLike = 0.1, quantile: jax.typing.ArrayLike = 0.9) -> BatchSizeTest:
    """Asks that the noise of most coordinates of the mean gradient be a fraction of their size.

    The batch size that it asks for is a quantile over all coordinates of the following number, where var is the
    variance of a sample's gradient in the coordinate::

        var / (eta * mean)**2

    Use it for small models. Avoid it for large ones, because it sorts all coordinates and workers send as much as for
    the gradient. The paper tests all coordinates, so that one that is almost zero decides.

    Args:
        eta: The largest fraction, above 0. Default: 0.1.
        quantile: Share of the coordinates that must pass, in (0, 1]. Default: 0.9. 1 is the paper's test. Coordinates
            whose mean is zero are left out.

    Returns:
        A test for `adaptive_batch_size`.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:
        >>> import optkit
        >>> tx = optkit.adaptive_batch_size(optkit.coordinate_test(eta=0.5), 8, max_batch_size=1024)

    Reference:
        arXiv:2402.11215
    """
    check_range("eta", eta, 0.0, low_open=True)
    check_range("quantile", quantile, 0.0, 1.0, low_open=True)

    def test(samples):
        def needed(variance, mean):
            squared = mean**2
            needed = variance / jnp.where(squared > 0, (eta * mean) ** 2, 1)
            return replicate(jnp.where(squared > 0, needed, jnp.nan)).ravel()

        coordinates = jax.tree.leaves(jax.tree.map(needed, samples.variances(lambda g: g), samples.mean))
        if not coordinates:
            return jnp.zeros([])
        return jnp.nanquantile(jnp.concatenate(coordinates), quantile)

    return test


def _inner_products(gradient: Any, direction: Any, scope: Scope) -> Any:
    """Returns a tree of the inner products of each leaf, or their sum."""
    products = jax.tree.map(lambda g, d: jnp.sum(g * d), gradient, direction)
    return products if scope == "leaf" else jnp.asarray(optax.tree.sum(products))


def _inverse(norm: jax.Array) -> jax.Array:
    """Returns one over a norm, or zero if the norm is zero."""
    return jnp.where(norm > 0, 1 / jnp.where(norm > 0, norm, 1), 0)


ADADAGRAD = Paper(
    "AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods", "Lau, Liu, Kolar", 2024, "2402.11215"
)

METHODS = (
    Method(
        name="norm_test",
        factory=norm_test,
        kind="function",
        summary="A test for adaptive_batch_size: the mean gradient's noise is a fraction of its norm.",
        paper=ADADAGRAD,
        also_known_as=("AdAdaGrad", "AdAdaGrad-Norm"),
    ),
    Method(
        name="inner_product_test",
        factory=inner_product_test,
        kind="function",
        summary="A test for adaptive_batch_size: the inner products of gradients with their mean vary little.",
        paper=ADADAGRAD,
        also_known_as=("AdAdaGrad",),
    ),
    Method(
        name="orthogonality_test",
        factory=orthogonality_test,
        kind="function",
        summary="A test for adaptive_batch_size: the part of gradients orthogonal to their mean is small.",
        paper=ADADAGRAD,
        also_known_as=("AdAdaGrad",),
    ),
    Method(
        name="augmented_inner_product_test",
        factory=augmented_inner_product_test,
        kind="function",
        summary="A test for adaptive_batch_size: the inner product test and the orthogonality test together.",
        paper=ADADAGRAD,
        also_known_as=("AdAdaGrad",),
    ),
    Method(
        name="coordinate_test",
        factory=coordinate_test,
        kind="function",
        summary="A test for adaptive_batch_size: the noise of most coordinates is a fraction of their size.",
        paper=ADADAGRAD,
        also_known_as=("AdAdaGrad", "coordinate-wise norm test"),
    ),
)
