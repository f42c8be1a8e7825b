"""FRUGAL with Lion: Lion in a subspace of each matrix's entries, signs of the gradient outside it.

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
    """Makes Lion with infinite gradients turned into NaN.

    After one infinite gradient, Lion's momentum would stay infinite and its steps would keep their full length. With
    NaN the updates are NaN from then on, so that the error shows.
    """
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
    """Lion in a subspace of each matrix's entries, and signs of the gradient outside the subspace.

    The update rule, where down(g) are the gradient's coordinates in the subspace of its matrix, and up is the way
    back::

        c = down(g)
        d = sign(b1 * m + (1 - b1) * c)
        m = b2 * m + (1 - b2) * c
        x = x - lr * (up(d) + rest_scale * sign(g - up(c)) + wd * x)

    Every `update_gap` steps a new subspace is chosen from the gradient, and m begins at zero. Leaves that are not
    projected follow Lion. After an infinite gradient the updates are NaN.

    Use it when even Lion's momentum does not fit into memory: only the coordinates in the subspaces have one. Avoid it
    when gradients are mostly noise, because the sign of a small gradient moves a parameter as far as that of a large
    one. For other options use `frugal` with `optax.scale_by_lion`.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. Take a third to a tenth of AdamW's.
        b1: See `optax.scale_by_lion`. Default: 0.9. The weight of the momentum against the gradient in the direction,
            in [0, 1].
        b2: Decay rate of the momentum, in [0, 1]. Default: 0.99.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        projector: See `frugal`. Default: None, `subspace_projector("svd", density=0.25)`.
        update_gap: Number of steps for which a subspace is kept, at least 1. Default: 200.
        rest_scale: Factor of the signs outside the subspace, at least 0. Default: 1. The authors use 1 for pre-training
            and 0.1 for fine-tuning.
        leaves: Which leaves are projected: see `frugal`. Default: None, the leaves with dimension numbers; without any
            dimension numbers, the leaves of exactly two axes.
        weight_dimension_numbers: See `frugal`. Default: None, the layout of Flax's dense layers.
        key: Seed of the random draws, an integer or a JAX key. Must be equal on all workers. Default: None, for a
            projector without random draws.
        mu_dtype: Dtype of the momentum. Default: that of the parameters, but at least float32.

    Returns:
        An optimizer. Its state is one number for each coordinate in the subspaces, and the projections.

    Raises:
        TypeError: From `init`, if parameters are complex.
        ValueError: If a hyperparameter is outside its range, or if `key` is missing for a projector with random draws.

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
        arXiv:2411.07837
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
        summary="Lion in a subspace of each matrix's entries, and signs of the gradient outside it.",
        paper=FRUGAL,
        also_known_as=("FRUGAL", "FRUGAL Lion", "GaloreLion", "CoordLion"),
        example={"learning_rate": 1e-2, "projector": subspace_projector("randk", density=0.5), "key": 0},
        grid=3e-4,
    ),
)
