"""Adam-SN: Adam with one second moment for each subset of a matrix's entries.

Nguyen, Nguyen, "Lean and Mean Adaptive Optimization via Subset-Norm and Subspace-Momentum with Convergence Guarantees",
2024, arXiv:2411.07120.
"""

from typing import Any

import jax
import optax

from optkit.core.checks import check_range
from optkit.core.decay import decayed_after_step
from optkit.core.types import DTypeLike, Mask
from optkit.memory_efficient._subset_norm import LEAN_AND_MEAN, scale_by_subset_norm, scale_by_subset_norm_named
from optkit.memory_efficient._subset_sums import SubsetSize
from optkit.method import Method, Variant

__all__ = ["adam_sn"]


def adam_sn(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-6,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    subset_size: SubsetSize = "heuristics",
    subset_leaves: Any | None = None,
    weight_dimension_numbers: Any | None = None,
    bias_correction: bool = True,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adam with one second moment for each row or column of a matrix: half of Adam's state.

    The learning rate is about 10 times Adam's, since a second moment is a sum over a subset. Do not take it where rows
    or columns that share a second moment differ much in scale.

    Args:
        learning_rate: a positive number or a schedule.
        b1: decay of the first moment, in [0, 1); default 0.9.
        b2: decay of the second moments, in [0, 1); default 0.999.
        eps: added to the root of the second moments before their bias is corrected, at least 0; default 1e-6.
        weight_decay: strength of the decoupled decay, which comes after the step, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        subset_size: `"heuristics"` (default) or an integer, as in `scale_by_subset_norm`.
        subset_leaves: the leaves with subsets, as in `scale_by_subset_norm`. By default those with dimension numbers,
            and without any numbers those of exactly two axes.
        weight_dimension_numbers: which axes are inputs and outputs, as in `scale_by_subset_norm`.
        bias_correction: corrects the zero start of both moments. On by default.
        mu_dtype: dtype of the first moment; default the parameters', but at least float32.

    Returns:
        An optimizer; its state is one number a parameter and one a subset.

    Raises:
        ValueError: if a hyperparameter is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.adam_sn(10.0)
        >>> params = jnp.array([[3.0, 0.0], [4.0, 2.0]])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> updates.round()
        Array([[ -6.,  -0.],
               [ -8., -10.]], dtype=float32)

    Reference:
        Nguyen, Nguyen, "Lean and Mean Adaptive Optimization via Subset-Norm and Subspace-Momentum with Convergence
        Guarantees", 2024, arXiv:2411.07120.
    """
    check_range("b1", b1, 0.0, 1.0, high_open=True)
    momentum = optax.ema(b1, debias=bias_correction, accumulator_dtype=mu_dtype)
    return decayed_after_step(
        "adam_sn",
        learning_rate,
        scale_by_subset_norm_named(
            "adam_sn",
            b2,
            eps,
            subset_size,
            subset_leaves=subset_leaves,
            weight_dimension_numbers=weight_dimension_numbers,
            momentum=momentum,
            bias_correction=bias_correction,
        ),
        weight_decay,
        mask,
    )


METHODS = (
    Method(
        name="adam_sn",
        factory=adam_sn,
        kind="optimizer",
        summary="Adam with one second moment for each row or column of a matrix.",
        paper=LEAN_AND_MEAN,
        also_known_as=("Adam-SN", "AdamW-SN", "AdamSN", "SN", "subset-norm"),
        parts=(scale_by_subset_norm,),
        example={"learning_rate": 1e-2},
        grid=3e-2,
        variants={"blocks": Variant({"subset_size": -1}, grid=3e-2)},
    ),
)
