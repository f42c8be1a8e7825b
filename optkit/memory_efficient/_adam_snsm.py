"""Adam-SNSM: Adam with momentum in a subspace and one second moment for each subset of a matrix's entries.

Nguyen, Nguyen, "Lean and Mean Adaptive Optimization via Subset-Norm and Subspace-Momentum with Convergence Guarantees",
2024, arXiv:2411.07120.
"""

from typing import Any

import jax
import optax

from optkit.core.decay import decayed_after_step
from optkit.core.types import Key, Mask
from optkit.memory_efficient._projector import Projector
from optkit.memory_efficient._subset_norm import LEAN_AND_MEAN, scale_by_subset_norm_named
from optkit.memory_efficient._subset_sums import SubsetSize
from optkit.memory_efficient._subspace_momentum import subspace_momentum_named
from optkit.memory_efficient._subspaces import subspace_projector
from optkit.method import Method, Variant

__all__ = ["adam_snsm"]


def adam_snsm(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-6,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    projector: Projector | None = None,
    update_gap: int | jax.Array = 200,
    subset_size: SubsetSize = "heuristics",
    leaves: Any | None = None,
    weight_dimension_numbers: Any | None = None,
    bias_correction: bool = True,
    key: Key | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adam with momentum in a subspace and one second moment for each row or column of a matrix.

    The update rule, where t counts the steps from 1, down(g) are the gradient's coordinates in the subspace of its
    matrix, up is the way back, a row holds the weights of one output, and each entry uses the v of its row (or of its
    column, if the matrix has more columns than rows)::

        m = b1 * m + (1 - b1) * down(g)
        v = b2 * v + (1 - b2) * (sum of g^2 over the row or column)
        u = (up(m) + g - up(down(g))) / (1 - b1^t)
        u = u * sqrt(1 - b2^t) / (sqrt(v) + eps)
        x = (x - lr * u) * (1 - lr * wd)

    Every `update_gap` steps a new subspace is chosen from the gradient, and its m begins at zero. Leaves without a
    subspace follow Adam.

    Use it when Adam's state does not fit into memory: for matrices whose sides are at least five times the rank, the
    state is about a fifth of Adam's, or less. Avoid it when Adam's state fits, because this method only saves memory,
    and the default projector computes a singular value decomposition of every matrix for each new subspace. The bias
    correction of the first moment also enlarges the part of the gradient outside the subspace, which has no momentum,
    in the first steps: warm the learning rate up.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. About 10 times Adam's.
        b1: Decay rate of the first moment, in [0, 1). Default: 0.9.
        b2: Decay rate of the second moment, in [0, 1). Default: 0.999.
        eps: Added to the square root of the second moment, at least 0. Default: 1e-6. It is added before the bias
            correction.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0. The decay is applied after the
            step.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        projector: See `subspace_momentum`. Default: None, `subspace_projector("svd", rank=128)`.
        update_gap: Number of steps for which a subspace is kept, at least 1. Default: 200. The momentum begins anew
            with each new subspace; `subspace_momentum` has an option for what the published code does instead.
        subset_size: See `scale_by_subset_norm`. Default: "heuristics", one second moment for each row or column.
        leaves: Which leaves have a subspace and subsets: see `subspace_momentum`. Default: None, the leaves with
            dimension numbers; without any dimension numbers, the leaves of exactly two axes.
        weight_dimension_numbers: See `subspace_momentum`. Default: None, the layout of Flax's dense layers.
        bias_correction: Whether the bias of both moments, which start at zero, is corrected. Default: True.
        key: Seed of the random draws, an integer or a JAX key. Must be equal on all workers. Default: None, for a
            projector without random draws.

    Returns:
        An optimizer. For an m x n matrix and r singular vectors its state is `r (m + n) + max(m, n)` numbers.

    Raises:
        TypeError: From `init`, if parameters are complex.
        ValueError: If a hyperparameter is outside its range, or if `key` is missing for a projector with random draws.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.adam_snsm(10.0, projector=optkit.subspace_projector("topk", rank=1))
        >>> params = jnp.array([[3.0, 0.0], [4.0, 2.0]])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> updates.round()
        Array([[  -6.,   -0.],
               [  -8., -100.]], dtype=float32)

    Reference:
        arXiv:2411.07120
    """
    momentum = subspace_momentum_named(
        "adam_snsm",
        b1,
        projector,
        update_gap,
        leaves=leaves,
        weight_dimension_numbers=weight_dimension_numbers,
        debias=bias_correction,
        reset="before",
        key=key,
    )
    direction = scale_by_subset_norm_named(
        "adam_snsm",
        b2,
        eps,
        subset_size,
        subset_leaves=leaves,
        weight_dimension_numbers=weight_dimension_numbers,
        momentum=momentum,
        bias_correction=bias_correction,
    )
    return decayed_after_step("adam_snsm", learning_rate, direction, weight_decay, mask)


METHODS = (
    Method(
        name="adam_snsm",
        factory=adam_snsm,
        kind="optimizer",
        summary="Adam with momentum in a subspace and one second moment for each row or column of a matrix.",
        paper=LEAN_AND_MEAN,
        also_known_as=("Adam-SNSM", "AdamSNSM", "AdamW-SNSM", "SNSM", "subset-norm and subspace-momentum"),
        example={"learning_rate": 1e-2, "projector": subspace_projector("svd", rank=2)},
        grid=3e-2,
        variants={"uniform": Variant({"projector": subspace_projector("uniform", rank=2), "key": 0}, grid=3e-2)},
    ),
)
