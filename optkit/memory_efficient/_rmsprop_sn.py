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
    """RMSProp with one second moment for each row or column of a matrix: hardly any state.

    The zero start of the second moments is not corrected: the first steps are up to `1 / sqrt(1 - b2)` times as long as
    later ones, so warm up.

    Args:
        learning_rate: a positive number or a schedule.
        b2: decay of the second moments, in [0, 1); default 0.999.
        eps: added to the root of the second moments before their bias is corrected, at least 0; default 1e-6.
        weight_decay: strength of the decoupled decay, which comes after the step, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        subset_size: `"heuristics"` (default) or an integer, as in `scale_by_subset_norm`.
        subset_leaves: the leaves with subsets, as in `scale_by_subset_norm`. By default those with dimension numbers,
            and without any numbers those of exactly two axes.
        weight_dimension_numbers: which axes are inputs and outputs, as in `scale_by_subset_norm`.

    Returns:
        An optimizer; its state is one number a subset.

    Raises:
        ValueError: if a hyperparameter is out of its range.

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
        Nguyen, Nguyen, "Lean and Mean Adaptive Optimization via Subset-Norm and Subspace-Momentum with Convergence
        Guarantees", 2024, arXiv:2411.07120.
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
        summary="RMSProp with one second moment for each row or column of a matrix, and no momentum.",
        paper=LEAN_AND_MEAN,
        also_known_as=("RMSProp-SN", "RMSPropSN", "subset-norm"),
        example={"learning_rate": 1e-2},
        grid=1e-2,
    ),
)
