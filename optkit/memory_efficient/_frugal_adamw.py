"""FRUGAL with AdamW: AdamW in a subspace of each matrix's entries, signs of the gradient in the rest.

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
    """AdamW in a subspace of each matrix's entries, signs of the gradient in the rest.

    Do not take it where the state of Adam fits into memory. What else may be done in the rest, a factor on all updates,
    and moments that stay when the subspace changes are options of `frugal`.

    Args:
        learning_rate: a positive number or a schedule.
        b1: decay of the first moment, in [0, 1); default 0.9.
        b2: decay of the second moment, in [0, 1); default 0.999.
        eps: added to the root of the second moment, at least 0; default 1e-8.
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
        mu_dtype: dtype of the first moment; default the parameters', but at least float32.

    Returns:
        An optimizer; for a projected matrix with a share `density` of all columns its state is twice that share of one
        number a parameter, and indices.

    Raises:
        TypeError: from `init`, if parameters are complex.
        ValueError: if a hyperparameter is out of its range, or a projector that draws has no key.

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
        Zmushko, Beznosikov, Takáč, Horváth, "FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for
        Scalable Training", 2024, arXiv:2411.07837.
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
        summary="AdamW in a subspace of each matrix's entries, signs of the gradient in the rest.",
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
