"""Variance-corrected averaging: the mean of different models, stretched so that it keeps the variance of its models.

Tian, Al-Ars, Kitsak, Hofstee, "Vanishing Variance Problem in Fully Decentralized Neural-Network Systems", 2024,
arXiv:2404.04616. The rule was reconstructed from the abstract: the entries of each leaf are stretched about their mean
until their variance is the mean variance of the models.
"""

from typing import Any

import jax
import jax.numpy as jnp

from optkit.core.checks import check_integer, check_range
from optkit.core.precision import scalar_dtype, widen
from optkit.decentralized._mixing import Mixing, require_mixing
from optkit.method import Method, Paper

__all__ = ["variance_corrected_mean", "variance_corrected_mix"]


def variance_corrected_mean(
    models: Any,
    weights: jax.typing.ArrayLike | None = None,
    *,
    min_ndim: int = 2,
    max_factor: jax.typing.ArrayLike | None = None,
) -> Any:
    """Averages models, and restores in each leaf the variance that averaging takes away.

    The rule for a leaf, where k are the models, and var and center are the variance and the mean over the entries of a
    leaf::

        mean   = sum_k weights_k * model_k
        factor = sqrt(sum_k weights_k * var(model_k) / var(mean))
        result = center(mean) + factor * (mean - center(mean))

    Use it when models were initialized independently: the entries of the mean of n such networks have a variance n
    times too small, and such a mean learns slowly. Avoid it when the models come from one another, because the factor
    is then near 1 and consists of noise.

    Args:
        models: A tree of floating-point arrays with a leading axis over models.
        weights: Weight of each model, shape (models,), with sum one. Default: None, equal weights.
        min_ndim: Smallest number of axes of the leaves that are corrected, at least 1; the axis over models does not
            count. The other leaves are only averaged, and so are leaves with one entry and leaves whose mean is
            constant. Default: 2, which leaves out biases and scales.
        max_factor: Upper bound of the factor, at least 1. Default: None, no bound.

    Returns:
        One model, in the models' dtypes.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> models = jnp.array([[[1.0, 3.0]], [[3.0, 1.0]], [[1.0, 3.0]]])
        >>> jnp.mean(models, axis=0).round(2), variance_corrected_mean(models).round(2)
        (Array([[1.67, 2.33]], dtype=float32), Array([[1., 3.]], dtype=float32))

    Reference:
        arXiv:2404.04616.
    """
    _check(min_ndim, max_factor)

    def average(x):
        values = widen(x)
        share = jnp.full(len(x), 1 / len(x), values.dtype) if weights is None else jnp.asarray(weights, values.dtype)
        mean = jnp.tensordot(share, values, 1)
        if _is_spared(mean, min_ndim):
            return mean.astype(x.dtype)
        return _stretch(mean, share @ jax.vmap(jnp.var)(values), max_factor).astype(x.dtype)

    return jax.tree.map(average, models)


def variance_corrected_mix(
    mixing: Mixing | None = None, *, min_ndim: int = 2, max_factor: jax.typing.ArrayLike | None = None
) -> Mixing:
    """Makes a mixing that restores in each leaf the variance that mixing takes away.

    The rule for a leaf, where var and center are the variance and the mean over the entries of a leaf::

        mixed  = mixing(x)
        factor = sqrt(mixing(var(x)) / var(mixed))
        result = center(mixed) + factor * (mixed - center(mixed))

    Use it with methods that mix parameters, such as `gossip`, in the first rounds of workers that were initialized
    independently. Avoid it in later rounds, because it keeps the mean over the entries of a leaf, but not the mean over
    workers, so the common value of the workers drifts.

    Args:
        mixing: The mixing whose results are corrected. Default: None, which is `mix`.
        min_ndim: See `variance_corrected_mean`. Default: 2.
        max_factor: See `variance_corrected_mean`. Default: None, no bound.

    Returns:
        A mixing. It sends one more number for each leaf that it corrects, all of them in one message.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: If `mixing` is not a function.

    Example:
        >>> from optkit.decentralized.topology import ring
        >>> values = jnp.array([[[1.0, 3.0]], [[3.0, 1.0]], [[1.0, 3.0]]])
        >>> mixed = jax.vmap(lambda x: variance_corrected_mix()(x, ring(3), "workers"), axis_name="workers")(values)
        >>> jnp.std(mixed, axis=(1, 2)).round(2)
        Array([1., 1., 1.], dtype=float32)

    Reference:
        arXiv:2404.04616.
    """
    _check(min_ndim, max_factor)
    mixing = require_mixing(mixing)

    def corrected(tree, topology, axis_name, *, step: int | jax.Array = 0, links=None):
        leaves, structure = jax.tree.flatten(tree)
        places = [i for i, x in enumerate(leaves) if not _is_spared(x, min_ndim)]
        variances = jnp.array([jnp.var(widen(leaves[i])) for i in places], scalar_dtype(tree)) if places else None
        mixed, targets = mixing((widen(leaves), variances), topology, axis_name, step=step, links=links)
        for i, target in zip(places, [] if targets is None else targets, strict=True):
            mixed[i] = _stretch(mixed[i], target.astype(mixed[i].dtype), max_factor)
        return structure.unflatten(m.astype(x.dtype) for m, x in zip(mixed, leaves, strict=True))

    return corrected


def _check(min_ndim: int, max_factor: jax.typing.ArrayLike | None) -> None:
    check_integer("min_ndim", min_ndim)
    check_range("max_factor", max_factor, 1.0)


def _is_spared(x: jax.Array, min_ndim: int) -> bool:
    return x.ndim < min_ndim or x.size < 2 or not jnp.issubdtype(x.dtype, jnp.floating)


def _stretch(x: jax.Array, target: jax.Array, max_factor: jax.typing.ArrayLike | None) -> jax.Array:
    """Stretches entries about their mean until their variance is the target."""
    variance, center = jnp.var(x), jnp.mean(x)
    factor = jnp.sqrt(jnp.where(variance > 0, target, 1) / jnp.where(variance > 0, variance, 1))
    factor = factor if max_factor is None else jnp.minimum(factor, max_factor)
    return (center + factor * (x - center)).astype(x.dtype)


_VANISHING_VARIANCE = Paper(
    "Vanishing Variance Problem in Fully Decentralized Neural-Network Systems",
    "Tian, Al-Ars, Kitsak, Hofstee",
    2024,
    "2404.04616",
)

METHODS = (
    Method(
        name="variance_corrected_mean",
        factory=variance_corrected_mean,
        kind="function",
        summary="Averages models, and restores in each leaf the variance that averaging takes away.",
        paper=_VANISHING_VARIANCE,
        also_known_as=("variance-corrected model averaging", "vanishing variance"),
    ),
    Method(
        name="variance_corrected_mix",
        factory=variance_corrected_mix,
        kind="function",
        summary="Mixes parameters, and restores in each leaf the variance that mixing takes away.",
        paper=_VANISHING_VARIANCE,
        also_known_as=("variance-corrected model averaging", "vanishing variance"),
    ),
)
