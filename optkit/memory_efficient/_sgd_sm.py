"""SGD-SM: gradient descent with momentum in a subspace only.

Nguyen, Nguyen, "Lean and Mean Adaptive Optimization via Subset-Norm and Subspace-Momentum with Convergence Guarantees",
2024, arXiv:2411.07120.
"""

from typing import Any

import jax
import optax

from optkit.core.decay import decayed_after_step
from optkit.core.types import Key, Mask
from optkit.memory_efficient._projector import Projector
from optkit.memory_efficient._subset_norm import LEAN_AND_MEAN
from optkit.memory_efficient._subspace_momentum import subspace_momentum_named
from optkit.memory_efficient._subspaces import subspace_projector
from optkit.method import Method

__all__ = ["sgd_sm"]


def sgd_sm(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    projector: Projector | None = None,
    update_gap: int | jax.Array = 200,
    leaves: Any | None = None,
    weight_dimension_numbers: Any | None = None,
    key: Key | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Gradient descent with momentum in a subspace only.

    Do not take it for transformers, which need a preconditioner. The momentum begins anew with each subspace; what the
    published code does in place of that is an option of `subspace_momentum`.

    Args:
        learning_rate: a positive number or a schedule.
        b1: decay of the momentum, in [0, 1); default 0.9.
        weight_decay: strength of the decoupled decay, which comes after the step, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        projector: chooses the subspaces, as in `subspace_momentum`; default `subspace_projector("svd", rank=128)`.
        update_gap: number of steps for which subspaces stay, at least 1; default 200.
        leaves: those with a subspace, as in `subspace_momentum`. By default those with dimension numbers, and without
            any numbers those of exactly two axes.
        weight_dimension_numbers: which axes are inputs and outputs, as in `subspace_momentum`.
        key: an integer or a JAX key, equal on all workers, for a projector that draws.

    Returns:
        An optimizer; for an m x n matrix and r singular vectors its state is `r (m + n)` numbers.

    Raises:
        TypeError: from `init`, if parameters are complex.
        ValueError: if a hyperparameter is out of its range, or a projector that draws has no key.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.sgd_sm(10.0, projector=optkit.subspace_projector("topk", rank=1))
        >>> params = jnp.array([[3.0, 0.0], [4.0, 2.0]])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> updates.round()
        Array([[ -3.,  -0.],
               [ -4., -20.]], dtype=float32)

    Reference:
        Nguyen, Nguyen, "Lean and Mean Adaptive Optimization via Subset-Norm and Subspace-Momentum with Convergence
        Guarantees", 2024, arXiv:2411.07120.
    """
    momentum = subspace_momentum_named(
        "sgd_sm",
        b1,
        projector,
        update_gap,
        leaves=leaves,
        weight_dimension_numbers=weight_dimension_numbers,
        debias=False,
        reset="before",
        key=key,
    )
    return decayed_after_step("sgd_sm", learning_rate, momentum, weight_decay, mask)


METHODS = (
    Method(
        name="sgd_sm",
        factory=sgd_sm,
        kind="optimizer",
        summary="Gradient descent with momentum in a subspace only.",
        paper=LEAN_AND_MEAN,
        also_known_as=("SGD-SM", "SGDSM", "subspace-momentum"),
        example={"learning_rate": 2e-3, "projector": subspace_projector("svd", rank=2)},
        grid=0.1,
    ),
)
