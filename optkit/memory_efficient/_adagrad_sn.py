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
    """AdaGrad with one sum of squares for each row or column of a matrix, and with momentum.

    The update rule, where a row holds the weights of one output, and each entry of a matrix uses the s of its row (or
    of its column, if the matrix has more columns than rows)::

        m = b1 * m + (1 - b1) * g          (m = g if b1 is None)
        s = s + (sum of g^2 over the row or column)
        x = (x - lr * m / (sqrt(s) + eps)) * (1 - lr * wd)

    The leaves that are not chosen by `subset_leaves` have one sum for each entry, as in AdaGrad.

    Use it when AdaGrad's step sizes, which only decrease, suit the problem and its state does not fit into memory; with
    `b1=None` hardly any state is left. Avoid it when entries that share a sum differ much in scale, because the largest
    of them determine the step of all, or when training is long, because the steps shrink towards zero.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. The authors use about 1.
        b1: Decay rate of the momentum, in [0, 1). Default: 0.9. Its bias, which comes from the start at zero, is not
            corrected. None runs without momentum.
        eps: Added to the square root of the sum of squares, at least 0. Default: 1e-6.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0. The decay is applied after the
            step.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        subset_size: See `scale_by_subset_norm`. Default: "heuristics", one sum for each row or column.
        subset_leaves: See `scale_by_subset_norm`. Default: None, the leaves with dimension numbers; without any
            dimension numbers, the leaves of exactly two axes.
        weight_dimension_numbers: See `scale_by_subset_norm`. Default: None, the layout of Flax's dense layers.
        mu_dtype: Dtype of the momentum. Default: that of the parameters, but at least float32.

    Returns:
        An optimizer. Its state is one number per parameter and one per subset; without momentum, only one per subset.

    Raises:
        ValueError: If a hyperparameter is outside its range.

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
        arXiv:2411.07120
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
        summary="AdaGrad with one sum of squares for each row or column of a matrix, and with momentum.",
        paper=LEAN_AND_MEAN,
        also_known_as=("AdaGrad-SN", "AdaGradSN", "subset-norm"),
        example={"learning_rate": 1.0},
        grid=0.3,
    ),
)
