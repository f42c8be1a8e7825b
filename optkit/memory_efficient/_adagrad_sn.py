"""AdaGrad-SN: AdaGrad with one sum of squares for each subset of a matrix's entries.

Nguyen, Nguyen, "Lean and Mean Adaptive Optimization via Subset-Norm and Subspace-Momentum with Convergence Guarantees",
2024, arXiv:2411.07120.
"""

from typing import Any

import jax
import optax

from optkit.core.checks import check_range
from optkit.core.decay import decayed_after_step
from optkit.core.types import DTypeLike, Mask
from optkit.memory_efficient._subset_norm import LEAN_AND_MEAN, scale_by_subset_norm_named
from optkit.memory_efficient._subset_sums import SubsetSize
from optkit.method import Method

__all__ = ["adagrad_sn"]


def adagrad_sn(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike | None = 0.9,
    eps: jax.typing.ArrayLike = 1e-6,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    subset_size: SubsetSize = "heuristics",
    subset_leaves: Any | None = None,
    weight_dimension_numbers: Any | None = None,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """AdaGrad with one sum of squares for each row or column of a matrix, and a momentum.

    Args:
        learning_rate: a positive number or a schedule; the authors' are about 1.
        b1: decay of the momentum, whose zero start is not corrected, in [0, 1); default 0.9. None keeps none.
        eps: added to the root of the second moments before their bias is corrected, at least 0; default 1e-6.
        weight_decay: strength of the decoupled decay, which comes after the step, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        subset_size: `"heuristics"` (default) or an integer, as in `scale_by_subset_norm`.
        subset_leaves: the leaves with subsets, as in `scale_by_subset_norm`. By default those with dimension numbers,
            and without any numbers those of exactly two axes.
        weight_dimension_numbers: which axes are inputs and outputs, as in `scale_by_subset_norm`.
        mu_dtype: dtype of the momentum; default the parameters', but at least float32.

    Returns:
        An optimizer; its state is one number a parameter and one a subset, the latter alone without momentum.

    Raises:
        ValueError: if a hyperparameter is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.adagrad_sn(10.0, b1=None)
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
    momentum = None if b1 is None else optax.ema(b1, debias=False, accumulator_dtype=mu_dtype)
    transformation = scale_by_subset_norm_named(
        "adagrad_sn",
        None,
        eps,
        subset_size,
        subset_leaves=subset_leaves,
        weight_dimension_numbers=weight_dimension_numbers,
        momentum=momentum,
        bias_correction=False,
    )
    return decayed_after_step("adagrad_sn", learning_rate, transformation, weight_decay, mask)


METHODS = (
    Method(
        name="adagrad_sn",
        factory=adagrad_sn,
        kind="optimizer",
        summary="AdaGrad with one sum of squares for each row or column of a matrix, and a momentum.",
        paper=LEAN_AND_MEAN,
        also_known_as=("AdaGrad-SN", "AdaGradSN", "subset-norm"),
        example={"learning_rate": 1.0},
        grid=0.3,
    ),
)
