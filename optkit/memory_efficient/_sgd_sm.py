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
    """Stochastic gradient descent with momentum in a subspace of each matrix only.

    The update rule is `x = (x - lr * u) * (1 - lr * wd)`, with u from `subspace_momentum`.

    Use it when gradient descent with momentum works for the model, but a momentum of the size of the parameters does
    not fit into memory. Avoid it for transformers, because they need a preconditioner: `adam_snsm` has one. The default
    projector computes a singular value decomposition of every matrix for each new subspace.

    Args:
        learning_rate: The learning rate, a positive number or a schedule.
        b1: Decay rate of the momentum, in [0, 1). Default: 0.9.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0. The decay is applied after the
            step.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        projector: See `subspace_momentum`. Default: None, `subspace_projector("svd", rank=128)`.
        update_gap: Number of steps for which a subspace is kept, at least 1. Default: 200. The momentum begins anew
            with each new subspace; `subspace_momentum` has an option for what the published code does instead.
        leaves: Which leaves have a subspace: see `subspace_momentum`. Default: None, the leaves with dimension numbers;
            without any dimension numbers, the leaves of exactly two axes.
        weight_dimension_numbers: See `subspace_momentum`. Default: None, the layout of Flax's dense layers.
        key: Seed of the random draws, an integer or a JAX key. Must be equal on all workers. Default: None, for a
            projector without random draws.

    Returns:
        An optimizer. For an m x n matrix and r singular vectors its state is `r (m + n)` numbers.

    Raises:
        TypeError: From `init`, if parameters are complex.
        ValueError: If a hyperparameter is outside its range, or if `key` is missing for a projector with random draws.

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
        arXiv:2411.07120
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
        summary="Stochastic gradient descent with momentum in a subspace of each matrix only.",
        paper=LEAN_AND_MEAN,
        also_known_as=("SGD-SM", "SGDSM", "subspace-momentum"),
        example={"learning_rate": 2e-3, "projector": subspace_projector("svd", rank=2)},
        grid=0.1,
    ),
)
