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
    """Adam with one second moment for each row or column of a matrix.

    The update rule, where t counts the steps from 1, a row holds the weights of one output, and each entry of a matrix
    uses the v of its row (or of its column, if the matrix has more columns than rows)::

        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * (sum of g^2 over the row or column)
        u = m / (1 - b1^t) * sqrt(1 - b2^t) / (sqrt(v) + eps)
        x = (x - lr * u) * (1 - lr * wd)

    The leaves that are not chosen by `subset_leaves` have one second moment for each entry, as in Adam.

    Use it when Adam's state does not fit into memory: its state is half as large. The second moment is a sum, not a
    mean, over the row or column, so that the learning rate is about 10 times Adam's. Avoid it when entries that share a
    second moment differ much in scale, because the largest of them determine the step of all.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. About 10 times Adam's.
        b1: Decay rate of the first moment, in [0, 1). Default: 0.9.
        b2: Decay rate of the second moment, in [0, 1). Default: 0.999.
        eps: Added to the square root of the second moment, at least 0. Default: 1e-6. It is added before the bias
            correction.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0. The decay is applied after the
            step.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        subset_size: See `scale_by_subset_norm`. Default: "heuristics", one second moment for each row or column.
        subset_leaves: See `scale_by_subset_norm`. Default: None, the leaves with dimension numbers; without any
            dimension numbers, the leaves of exactly two axes.
        weight_dimension_numbers: See `scale_by_subset_norm`. Default: None, the layout of Flax's dense layers.
        bias_correction: Whether the bias of both moments, which start at zero, is corrected. Default: True.
        mu_dtype: Dtype of the first moment. Default: that of the parameters, but at least float32.

    Returns:
        An optimizer. Its state is one number per parameter and one per subset.

    Raises:
        ValueError: If a hyperparameter is outside its range.

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
        arXiv:2411.07120
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
