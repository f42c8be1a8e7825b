"""TIES: merges models fine-tuned from one base: trims their changes, elects signs, and averages what agrees.

Yadav, Tam, Choshen, Raffel, Bansal, "TIES-Merging: Resolving Interference When Merging Models", 2023, arXiv:2306.01708.
Where entries tie, the authors' code decides: it keeps one entry more than the density says.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from optkit.core.checks import check_option, check_range
from optkit.core.complex_numbers import refuse_complex
from optkit.core.injection import refuse_arrays
from optkit.core.precision import widen
from optkit.method import Method, Paper

__all__ = ["ties_merge"]

Elect = Literal["mass", "norm_mass"]
Combine = Literal["mean", "sum", "max"]


def ties_merge(
    base: Any,
    models: Any,
    density: float = 0.2,
    scale: jax.typing.ArrayLike = 1.0,
    *,
    elect: Elect = "mass",
    combine: Combine = "mean",
) -> Any:
    """Merges models that were fine-tuned from one base, each for its own task, without further training.

    All leaves are seen as one vector, so that small leaves may not change at all. Do not take it for models without a
    common base: see `activation_matched_mix`.

    Args:
        base: a tree of floating-point arrays.
        models: the tree with a leading axis over models.
        density: share of the entries of each model's change that is kept, the largest, in (0, 1]; default 0.2.
        scale: what the merged change is multiplied by before it is added to the base; default 1.
        elect: whose sign wins in an entry: that of the sum of the changes ("mass", default), or of the sum of their
            signs weighted by the entry's share in the model's squared norm ("norm_mass"). Where that is zero, the sign
            that wins in most entries.
        combine: what is done with the changes of the elected sign: their "mean" (default), "sum", or the "max"
            magnitude.

    Returns:
        One model, in the dtypes of `base`. An entry is NaN if it is in one of the models, and all are with "norm_mass".

    Raises:
        ValueError: if an argument is out of its range or unknown.
        TypeError: if there are complex numbers.

    Example:
        >>> base = jnp.zeros(4)
        >>> models = jnp.array([[4.0, -3.0, 0.1, 0.2], [2.0, 5.0, 0.1, 0.2]])
        >>> ties_merge(base, models, density=0.25)
        Array([3., 5., 0., 0.], dtype=float32)

    Reference:
        Yadav et al., "TIES-Merging: Resolving Interference When Merging Models", 2023, arXiv:2306.01708.
    """
    refuse_arrays(density=density)
    check_range("density", density, 0.0, 1.0, low_open=True)
    refuse_complex((base, models), "ties_merge")
    check_option("elect", elect, Elect)
    check_option("combine", combine, Combine)
    origin, restore = ravel_pytree(base)
    if not origin.size:
        return base
    wide = widen(origin)
    changes = widen(jax.vmap(lambda model: ravel_pytree(model)[0])(models)) - wide[None]
    trimmed = _trim(changes, density)
    merged = _combine(trimmed, _elect(trimmed, elect), combine)
    return restore((wide + jnp.asarray(scale, wide.dtype) * merged).astype(origin.dtype))


def _trim(changes: jax.Array, density: float) -> jax.Array:
    """Keeps the largest entries of each row, all that are as large as the last of them, and NaN."""
    magnitudes, size = jnp.abs(changes), changes.shape[1]
    smallest = max(size - int(size * density), 1) - 1
    return jnp.where(magnitudes < jnp.sort(magnitudes, axis=1)[:, smallest, None], 0, changes)


def _elect(trimmed: jax.Array, elect: Elect) -> jax.Array:
    """Gives each entry the sign that wins among the models."""
    if elect == "norm_mass":
        squares = jnp.square(trimmed)
        total = jnp.sum(squares, axis=1, keepdims=True)
        signs = jnp.sign(jnp.sum(jnp.sign(trimmed) * squares / jnp.where(total == 0, 1, total), axis=0))
    else:
        signs = jnp.sign(jnp.sum(trimmed, axis=0))
    return jnp.where(signs == 0, jnp.sign(jnp.sum(signs)), signs)


def _combine(trimmed: jax.Array, signs: jax.Array, combine: Combine) -> jax.Array:
    """Brings the changes of the elected sign together."""
    elected = jnp.where(signs[None] > 0, jnp.maximum(trimmed, 0), jnp.minimum(trimmed, 0))
    elected = jnp.where(jnp.isnan(signs[None]), jnp.nan, elected)
    if combine == "max":
        return jnp.max(jnp.abs(elected), axis=0) * signs
    total = jnp.sum(elected, axis=0)
    return total if combine == "sum" else total / jnp.maximum(jnp.sum(elected != 0, axis=0), 1).astype(total.dtype)


METHODS = (
    Method(
        name="ties_merge",
        factory=ties_merge,
        kind="function",
        summary="Merges models fine-tuned from one base: trims their changes, elects signs, and averages what agrees.",
        paper=Paper(
            "TIES-Merging: Resolving Interference When Merging Models",
            "Yadav, Tam, Choshen, Raffel, Bansal",
            2023,
            "2306.01708",
        ),
        also_known_as=("TIES-Merging", "TIES", "trim, elect sign and merge", "model merging"),
    ),
)
