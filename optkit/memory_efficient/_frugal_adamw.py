"""FRUGAL with AdamW: AdamW in a subspace of each matrix's entries, signs of the gradient outside it.

Zmushko, Beznosikov, Takáč, Horváth, "FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable
Training", 2024, arXiv:2411.07837.
"""

from typing import Any

import jax
import optax

from optkit.core.checks import check_range
from optkit.core.injection import refuse_arrays
from optkit.core.types import DTypeLike, Key, Mask
from optkit.memory_efficient._block_projector import block_projector
from optkit.memory_efficient._frugal import FRUGAL, frugal_optimizer
from optkit.memory_efficient._projector import Projector
from optkit.memory_efficient._subspaces import subspace_projector
from optkit.method import Method, Variant

__all__ = ["frugal_adamw"]


def frugal_adamw(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
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
    """AdamW in a subspace of each matrix's entries, and signs of the gradient outside the subspace.

    The update rule, where down(g) are the gradient's coordinates in the subspace of its matrix, up is the way back, and
    t counts the steps since the subspace was chosen, from 1::

        c = down(g)
        m = b1 * m + (1 - b1) * c
        v = b2 * v + (1 - b2) * c^2
        d = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)
        x = x - lr * (up(d) + rest_scale * sign(g - up(c)) + wd * x)

    Every `update_gap` steps a new subspace is chosen from the gradient, and m and v begin at zero. Leaves that are not
    projected follow AdamW.

    Use it when Adam's state does not fit into memory: only the coordinates in the subspaces have moments. Avoid it when
    it fits, because outside the subspace every coordinate moves by the learning rate, however small its gradient is.
    `frugal` has options for another rule outside the subspace, for a factor of all updates, and for moments that are
    kept when the subspace changes.

    Args:
        learning_rate: The learning rate, a positive number or a schedule.
        b1: Decay rate of the first moment, in [0, 1). Default: 0.9.
        b2: Decay rate of the second moment, in [0, 1). Default: 0.999.
        eps: Added to the square root of the second moment, at least 0. Default: 1e-8.
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
        mu_dtype: Dtype of the first moment. Default: that of the parameters, but at least float32.

    Returns:
        An optimizer. If a share `density` of a matrix's columns is projected, its state is 2 * density numbers per
        parameter of that matrix, and the indices of the columns.

    Raises:
        TypeError: From `init`, if parameters are complex.
        ValueError: If a hyperparameter is outside its range, or if `key` is missing for a projector with random draws.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.frugal_adamw(1.0, projector=optkit.subspace_projector("columns", density=0.5), key=0)
        >>> params = jnp.array([[3.0, -4.0], [0.0, 2.0]])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> updates.round(2)
        Array([[-1.,  1.],
               [-0., -1.]], dtype=float32)

    Reference:
        arXiv:2411.07837
    """
    check_range("b1", b1, 0.0, 1.0, high_open=True)
    check_range("b2", b2, 0.0, 1.0, high_open=True)
    check_range("eps", eps, 0.0)
    refuse_arrays(mu_dtype=mu_dtype)
    return frugal_optimizer(
        "frugal_adamw",
        learning_rate,
        optax.scale_by_adam(b1, b2, eps, mu_dtype=mu_dtype),
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
        name="frugal_adamw",
        factory=frugal_adamw,
        kind="optimizer",
        summary="AdamW in a subspace of each matrix's entries, and signs of the gradient outside it.",
        paper=FRUGAL,
        also_known_as=("FRUGAL", "FRUGAL AdamW", "GaloreAdamW", "CoordAdamW", "BlockAdamW"),
        example={"learning_rate": 1e-2, "projector": subspace_projector("svd", density=0.5)},
        grid=1e-3,
        variants={
            "columns": Variant({"projector": subspace_projector("columns", density=0.5), "key": 0}, grid=1e-3),
            "blocks": Variant({"projector": block_projector(0.5), "key": 0}, grid=1e-3),
        },
    ),
)
