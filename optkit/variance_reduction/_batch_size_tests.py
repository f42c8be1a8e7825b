"""Tests of the gradient's noise that say how large the next batch must be.

Lau, Liu, Kolar, "AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods", 2024, arXiv:2402.11215; the
tests are those of the authors' code (its tests.py), which takes inner products leaf by leaf where the paper takes them
over the whole vector: `scope` chooses. The coordinate-wise test is in the paper only.

Each asks for the batch at which the noise of some linear image of the samples' gradients, in units of the squared norm
of the mean gradient, would be a given square. In these units nothing overflows that the gradients' squares do not.
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
    """What a test sees.

    Attributes:
        mean: the mean gradient over all samples.
        variances: called with a linear function of a sample's gradient, whose values are trees, it estimates the
            variance over the samples of each of their entries.
        total_variance: the same, the sum over all entries, of which workers send nothing else.
    """

    mean: Any
    variances: Callable[[Callable[[Any], Any]], Any]
    total_variance: Callable[[Callable[[Any], Any]], jax.Array]


BatchSizeTest = Callable[[GradientSamples], jax.Array]
"""A test gives the batch size that it asks for, a real number, infinity where no batch would do, NaN for any batch."""


def norm_test(eta: jax.typing.ArrayLike = 0.1) -> BatchSizeTest:
    """Asks that the mean gradient's noise be a fraction of its norm.

    Args:
        eta: the largest fraction, positive; default 0.1. Smaller is stricter: the batch grows with its inverse square.

    Returns:
        A test for `adaptive_batch_size`.

    Raises:
        ValueError: if `eta` is out of its range.

    Example:
        >>> import optkit
        >>> tx = optkit.adaptive_batch_size(optkit.norm_test(eta=0.5), 8, max_batch_size=1024)

    Reference:
        Lau, Liu, Kolar, "AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods", 2024, arXiv:2402.11215.
    """
    check_range("eta", eta, 0.0, low_open=True)

    def test(samples):
        return samples.total_variance(lambda g: g) / (eta**2 * optax.tree.norm(samples.mean, squared=True))

    return test


def inner_product_test(theta: jax.typing.ArrayLike = 0.1, scope: Scope = "leaf") -> BatchSizeTest:
    """Asks that gradients of batches point along the mean gradient: that their inner products with it vary little.

    Args:
        theta: the largest deviation of these products, in units of the mean gradient's squared norm, positive; default
            0.1.
        scope: `"leaf"` (default) adds up the variances of each leaf's inner products, as the authors' code does;
            `"global"` takes the inner product over all leaves, as their paper does.

    Returns:
        A test for `adaptive_batch_size`.

    Raises:
        ValueError: if a hyperparameter is out of its range.

    Example:
        >>> import optkit
        >>> tx = optkit.adaptive_batch_size(optkit.inner_product_test(theta=0.5), 8, max_batch_size=1024)

    Reference:
        Lau, Liu, Kolar, "AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods", 2024, arXiv:2402.11215.
    """
    check_range("theta", theta, 0.0, low_open=True)
    check_option("scope", scope, Scope)

    def test(samples):
        norm = optax.tree.norm(samples.mean)
        direction = optax.tree.scale(_inverse(norm), samples.mean)
        return samples.total_variance(lambda g: _inner_products(g, direction, scope)) / (theta * norm) ** 2

    return test


def orthogonality_test(nu: jax.typing.ArrayLike = 0.1, scope: Scope = "leaf") -> BatchSizeTest:
    """Asks that what is orthogonal to the mean gradient in gradients of batches be small.

    Args:
        nu: the largest deviation of the orthogonal part, in units of the mean gradient's norm, positive; default 0.1.
        scope: whether it is orthogonal to the mean gradient in each leaf (`"leaf"`, default, as in the authors' code),
            or over all leaves (`"global"`, as in their paper).

    Returns:
        A test for `adaptive_batch_size`.

    Raises:
        ValueError: if a hyperparameter is out of its range.

    Example:
        >>> import optkit
        >>> tx = optkit.adaptive_batch_size(optkit.orthogonality_test(nu=0.5), 8, max_batch_size=1024)

    Reference:
        Lau, Liu, Kolar, "AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods", 2024, arXiv:2402.11215.
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
    """Asks for what both the inner product test and the orthogonality test ask for.

    Args:
        theta: see `inner_product_test`; default 0.1.
        nu: see `orthogonality_test`; default 0.1.
        scope: `"leaf"` (default) or `"global"`, see `inner_product_test`.

    Returns:
        A test for `adaptive_batch_size`.

    Raises:
        ValueError: if a hyperparameter is out of its range.

    Example:
        >>> import optkit
        >>> tx = optkit.adaptive_batch_size(optkit.augmented_inner_product_test(), 8, max_batch_size=1024)

    Reference:
        Lau, Liu, Kolar, "AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods", 2024, arXiv:2402.11215.
    """
    along, across = inner_product_test(theta, scope), orthogonality_test(nu, scope)
    return lambda samples: jnp.maximum(along(samples), across(samples))


def coordinate_test(eta: jax.typing.ArrayLike = 0.1, quantile: jax.typing.ArrayLike = 0.9) -> BatchSizeTest:
    """Asks that the noise of most of the mean gradient's coordinates be a fraction of their size.

    The paper asks it of all coordinates, which one that is almost zero decides. This one sorts all of them, and workers
    send as much as for the gradient: it is for small models.

    Args:
        eta: the largest fraction, positive; default 0.1.
        quantile: the share of the coordinates of which it is asked, in (0, 1]; default 0.9; 1 is the paper's test.
            Coordinates whose mean is zero are left out.

    Returns:
        A test for `adaptive_batch_size`.

    Raises:
        ValueError: if a hyperparameter is out of its range.

    Example:
        >>> import optkit
        >>> tx = optkit.adaptive_batch_size(optkit.coordinate_test(eta=0.5), 8, max_batch_size=1024)

    Reference:
        Lau, Liu, Kolar, "AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods", 2024, arXiv:2402.11215.
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
    """A tree of the inner products of each leaf, or the sum of them."""
    products = jax.tree.map(lambda g, d: jnp.sum(g * d), gradient, direction)
    return products if scope == "leaf" else jnp.asarray(optax.tree.sum(products))


def _inverse(norm: jax.Array) -> jax.Array:
    """One over a norm; zero where that is zero."""
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
        summary="A test for adaptive_batch_size: inner products with the mean gradient vary little.",
        paper=ADADAGRAD,
        also_known_as=("AdAdaGrad",),
    ),
    Method(
        name="orthogonality_test",
        factory=orthogonality_test,
        kind="function",
        summary="A test for adaptive_batch_size: what is orthogonal to the mean gradient is small.",
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
