"""TIES: merges models fine-tuned from one base: trims their changes, elects signs, and averages the changes that agree.

Yadav, Tam, Choshen, Raffel, Bansal, "TIES-Merging: Resolving Interference When Merging Models", 2023, arXiv:2306.01708.
Where entries tie, the rule is that of the authors' code: it keeps one entry more than the density says.
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

    The rule, for models k and with all leaves as one vector::

        d_k  = model_k - base, with all but its largest entries set to zero     # a share `density` is kept
        sign = sign(sum_k d_k)                                                  # in each entry
        d    = mean of the nonzero d_k whose sign is `sign`                     # in each entry
        model = base + scale * d

    Use it when you want one model for several tasks and have no data to train it. Avoid it when the models have no
    common base, because their entries then do not correspond: see `activation_matched_mix`. Because the largest entries
    are chosen among all leaves together, small leaves may not change at all. Compare it with the plain mean: with two
    networks that share an output layer, each trained on half of the digits, the mean was at least as accurate.

    Args:
        base: A tree of floating-point arrays.
        models: The same tree with a leading axis over models.
        density: Share of the entries of each model's change that is kept, in (0, 1]; the largest are kept. Default:
            0.2.
        scale: Factor of the merged change before it is added to the base. Default: 1.
        elect: How the sign of an entry is elected: "mass" takes the sign of the sum of the changes; "norm_mass" takes
            the sign of the sum of their signs, each weighted by the entry's share of the model's squared norm. If the
            sum is zero, the sign that wins in most entries is taken. Default: "mass".
        combine: How the changes of the elected sign are combined: their "mean", their "sum", or the one with the
            largest magnitude, "max". Default: "mean".

    Returns:
        One model, in the dtypes of `base`. An entry is NaN if it is NaN in one of the models; with "norm_mass" all
        entries are NaN then.

    Raises:
        ValueError: If an argument is out of its range or unknown.
        TypeError: If an array is complex.

    Example:
        >>> base = jnp.zeros(4)
        >>> models = jnp.array([[4.0, -3.0, 0.1, 0.2], [2.0, 5.0, 0.1, 0.2]])
        >>> ties_merge(base, models, density=0.25)
        Array([3., 5., 0., 0.], dtype=float32)

    Reference:
        arXiv:2306.01708.
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
    """Keeps the largest entries of each row, with all that tie with the smallest of them, and NaN."""
    magnitudes, size = jnp.abs(changes), changes.shape[1]
    smallest = max(size - int(size * density), 1) - 1
    return jnp.where(magnitudes < jnp.sort(magnitudes, axis=1)[:, smallest, None], 0, changes)


def _elect(trimmed: jax.Array, elect: Elect) -> jax.Array:
    """Returns for each entry the sign that wins among the models."""
    if elect == "norm_mass":
        squares = jnp.square(trimmed)
        total = jnp.sum(squares, axis=1, keepdims=True)
        signs = jnp.sign(jnp.sum(jnp.sign(trimmed) * squares / jnp.where(total == 0, 1, total), axis=0))
    else:
        signs = jnp.sign(jnp.sum(trimmed, axis=0))
    return jnp.where(signs == 0, jnp.sign(jnp.sum(signs)), signs)


def _combine(trimmed: jax.Array, signs: jax.Array, combine: Combine) -> jax.Array:
    """Combines the changes of the elected sign."""
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
        summary="Merges models fine-tuned from one base: trims changes, elects signs, averages changes that agree.",
        paper=Paper(
            "TIES-Merging: Resolving Interference When Merging Models",
            "Yadav, Tam, Choshen, Raffel, Bansal",
            2023,
            "2306.01708",
        ),
        also_known_as=("TIES-Merging", "TIES", "trim, elect sign and merge", "model merging"),
    ),
)
