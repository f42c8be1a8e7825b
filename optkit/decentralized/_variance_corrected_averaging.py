"""Variance-corrected averaging: the mean of models that differ, with the spread that each of them has.

Tian, Al-Ars, Kitsak, Hofstee, "Vanishing Variance Problem in Fully Decentralized Neural-Network Systems", 2024,
arXiv:2404.04616. The rule was reconstructed from the abstract: each leaf's entries are stretched about their mean until
their variance is the models' mean variance.
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
    """Averages models, and restores in each leaf the variance that averaging independent entries takes away.

    The mean of n networks that were initialized apart has weights of a variance n times too small, and learns slowly.
    Do not take it for models that come from one another: there the factor is near 1, and noise.

    Args:
        models: a tree of floating-point arrays with a leading axis over models.
        weights: what each model weighs, shape (models,), summing to one; equal by default.
        min_ndim: leaves of fewer axes, the models' axis not counted, are averaged only, at least 1; default 2, which
            spares biases and scales. So are leaves of one entry, and those whose mean is constant.
        max_factor: bound of the factor by which a leaf is stretched, at least 1; none by default.

    Returns:
        One model, in the models' dtypes.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> models = jnp.array([[[1.0, 3.0]], [[3.0, 1.0]], [[1.0, 3.0]]])
        >>> jnp.mean(models, axis=0).round(2), variance_corrected_mean(models).round(2)
        (Array([[1.67, 2.33]], dtype=float32), Array([[1., 3.]], dtype=float32))

    Reference:
        Tian, Al-Ars, Kitsak, Hofstee, "Vanishing Variance Problem in Fully Decentralized Neural-Network Systems", 2024,
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

    Give it to methods that mix parameters, such as `gossip`, in the first rounds of workers that were initialized
    apart. Do not take it for longer: it keeps the mean over a leaf's entries, but not the mean over workers, and what
    workers agree on drifts.

    Args:
        mixing: the mixing whose results are corrected; None: `mix`.
        min_ndim: leaves of fewer axes are mixed only, as in `variance_corrected_mean`.
        max_factor: as there.

    Returns:
        A mixing that sends one number more for each leaf that it corrects, all of them in one message.

    Raises:
        ValueError: if an argument is out of its range.
        TypeError: if `mixing` is no function.

    Example:
        >>> from optkit.decentralized.topology import ring
        >>> values = jnp.array([[[1.0, 3.0]], [[3.0, 1.0]], [[1.0, 3.0]]])
        >>> mixed = jax.vmap(lambda x: variance_corrected_mix()(x, ring(3), "workers"), axis_name="workers")(values)
        >>> jnp.std(mixed, axis=(1, 2)).round(2)
        Array([1., 1., 1.], dtype=float32)

    Reference:
        Tian, Al-Ars, Kitsak, Hofstee, "Vanishing Variance Problem in Fully Decentralized Neural-Network Systems", 2024,
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
