"""RMSProp-SN: RMSProp with one second moment for each subset of a matrix's entries.

Nguyen, Nguyen, "Lean and Mean Adaptive Optimization via Subset-Norm and Subspace-Momentum with Convergence Guarantees",
2024, arXiv:2411.07120.
"""

from typing import Any

import jax
import optax

from optkit.core.decay import decayed_after_step
from optkit.core.types import Mask
from optkit.memory_efficient._subset_norm import LEAN_AND_MEAN, scale_by_subset_norm_named
from optkit.memory_efficient._subset_sums import SubsetSize
from optkit.method import Method

__all__ = ["rmsprop_sn"]


def rmsprop_sn(
    learning_rate: optax.ScalarOrSchedule,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-6,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    subset_size: SubsetSize = "heuristics",
    subset_leaves: Any | None = None,
    weight_dimension_numbers: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    """RMSProp with one second moment for each row or column of a matrix, without momentum.

    The update rule, where a row holds the weights of one output, and each entry of a matrix uses the v of its row (or
    of its column, if the matrix has more columns than rows)::

        v = b2 * v + (1 - b2) * (sum of g^2 over the row or column)
        x = (x - lr * g / (sqrt(v) + eps)) * (1 - lr * wd)

    The leaves that are not chosen by `subset_leaves` have one second moment for each entry.

    Use it when hardly any memory is left for the optimizer's state. Avoid it when momentum fits into memory (`adam_sn`
    has it), or when entries that share a second moment differ much in scale, because the largest of them determine the
    step of all. The bias of the second moments, which start at zero, is not corrected: the first steps are up to
    `1 / sqrt(1 - b2)` times as long as later ones, so warm the learning rate up.

    Args:
        learning_rate: The learning rate, a positive number or a schedule.
        b2: Decay rate of the second moment, in [0, 1). Default: 0.999.
        eps: Added to the square root of the second moment, at least 0. Default: 1e-6.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0. The decay is applied after the
            step.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        subset_size: See `scale_by_subset_norm`. Default: "heuristics", one second moment for each row or column.
        subset_leaves: See `scale_by_subset_norm`. Default: None, the leaves with dimension numbers; without any
            dimension numbers, the leaves of exactly two axes.
        weight_dimension_numbers: See `scale_by_subset_norm`. Default: None, the layout of Flax's dense layers.

    Returns:
        An optimizer. Its state is one number per subset.

    Raises:
        ValueError: If a hyperparameter is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.rmsprop_sn(10.0, b2=0.75)
        >>> params = jnp.array([[3.0, 0.0], [4.0, 2.0]])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> updates.round()
        Array([[-12.,  -0.],
               [-16., -20.]], dtype=float32)

    Reference:
        arXiv:2411.07120
    """
    transformation = scale_by_subset_norm_named(
        "rmsprop_sn",
        b2,
        eps,
        subset_size,
        subset_leaves=subset_leaves,
        weight_dimension_numbers=weight_dimension_numbers,
        momentum=None,
        bias_correction=False,
    )
    return decayed_after_step("rmsprop_sn", learning_rate, transformation, weight_decay, mask)


METHODS = (
    Method(
        name="rmsprop_sn",
        factory=rmsprop_sn,
        kind="optimizer",
        summary="RMSProp with one second moment for each row or column of a matrix, without momentum.",
        paper=LEAN_AND_MEAN,
        also_known_as=("RMSProp-SN", "RMSPropSN", "subset-norm"),
        example={"learning_rate": 1e-2},
        grid=1e-2,
    ),
)
