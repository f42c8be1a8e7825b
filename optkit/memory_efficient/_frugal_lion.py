"""FRUGAL with Lion: Lion in a subspace of each matrix's entries, signs of the gradient in the rest.

Zmushko, Beznosikov, Takáč, Horváth, "FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable
Training", 2024, arXiv:2411.07837.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_range
from optkit.core.injection import refuse_arrays
from optkit.core.types import DTypeLike, Key, Mask
from optkit.memory_efficient._frugal import FRUGAL, frugal_optimizer
from optkit.memory_efficient._projector import Projector
from optkit.memory_efficient._subspaces import subspace_projector
from optkit.method import Method

__all__ = ["frugal_lion"]


def _lion(
    b1: jax.typing.ArrayLike, b2: jax.typing.ArrayLike, mu_dtype: DTypeLike | None
) -> optax.GradientTransformation:
    """Makes Lion, whose steps would have full length for ever after one infinite gradient, NaN from then on."""
    lion = optax.scale_by_lion(b1, b2, mu_dtype)

    def update_fn(updates, state, params=None):
        return lion.update(jax.tree.map(lambda g: jnp.where(jnp.isinf(g), jnp.nan, g), updates), state, params)

    return optax.GradientTransformation(lion.init, update_fn)


def frugal_lion(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.99,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    projector: Projector | None = None,
    update_gap: int | jax.Array = 200,
    rest_scale: jax.typing.ArrayLike = 1.0,
    leaves: Any | None = None,
    weight_dimension_numbers: Any | None = None,
    key: Key | None = None,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Lion in a subspace of each matrix's entries, signs of the gradient in the rest.

    Do not take it where gradients are mostly noise: their signs move as far as those of clear ones.
    Further options are those of `frugal`, around `optax.scale_by_lion`.

    Args:
        learning_rate: a positive number or a schedule; 3 to 10 times smaller than AdamW's.
        b1: weight of the momentum in the interpolation with the gradient, in [0, 1]; default 0.9.
        b2: decay of the momentum, in [0, 1]; default 0.99.
        weight_decay: strength of the decoupled decay, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        projector: chooses the subspaces, as in `frugal`; default `subspace_projector("svd", density=0.25)`.
        update_gap: number of steps for which subspaces stay, at least 1; default 200.
        rest_scale: factor on the signs outside the subspace, at least 0; default 1, the authors' for pre-training; 0.1
            is theirs for fine-tuning.
        leaves: those that are projected, as in `frugal`. By default those with dimension numbers, and without any
            numbers those of exactly two axes.
        weight_dimension_numbers: which axes are inputs and outputs, as in `frugal`.
        key: an integer or a JAX key, equal on all workers, for a projector that draws.
        mu_dtype: dtype of the momentum; default the parameters', but at least float32.

    Returns:
        An optimizer; its state is one number a coordinate in the subspaces, and the projections.

    Raises:
        TypeError: from `init`, if parameters are complex.
        ValueError: if a hyperparameter is out of its range, or a projector that draws has no key.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.frugal_lion(1.0, projector=optkit.subspace_projector("columns", density=0.5), key=0)
        >>> params = jnp.array([[3.0, -4.0], [0.0, 2.0]])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> updates.round(2)
        Array([[-1.,  1.],
               [-0., -1.]], dtype=float32)

    Reference:
        Zmushko, Beznosikov, Takáč, Horváth, "FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for
        Scalable Training", 2024, arXiv:2411.07837.
    """
    check_range("b1", b1, 0.0, 1.0)
    check_range("b2", b2, 0.0, 1.0)
    refuse_arrays(mu_dtype=mu_dtype)
    return frugal_optimizer(
        "frugal_lion",
        learning_rate,
        _lion(b1, b2, mu_dtype),
        weight_decay,
        mask,
        projector=projector,
        update_gap=update_gap,
        rest_scale=rest_scale,
        leaves=leaves,
        weight_dimension_numbers=weight_dimension_numbers,
        key=key,
    )


METHODS = (
    Method(
        name="frugal_lion",
        factory=frugal_lion,
        kind="optimizer",
        summary="Lion in a subspace of each matrix's entries, signs of the gradient in the rest.",
        paper=FRUGAL,
        also_known_as=("FRUGAL", "FRUGAL Lion", "GaloreLion", "CoordLion"),
        example={"learning_rate": 1e-2, "projector": subspace_projector("randk", density=0.5), "key": 0},
        grid=3e-4,
    ),
)
