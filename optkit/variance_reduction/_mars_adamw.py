"""MARS-AdamW: AdamW on the corrected gradients of matrices, and plain AdamW on all other parameters.

Yuan, Liu, Wu, Zhou, Gu, "MARS: Unleashing the Power of Variance Reduction for Training Large Models", 2024,
arXiv:2411.10438. Algorithm 2. AMSGrad and the treatment of parameters that are not matrices follow the authors' code.
The module `_mars` lists the differences between the code and the paper.
"""

from typing import Any

import jax
import optax

from optkit.core.checks import check_range
from optkit.core.injection import refuse_arrays
from optkit.core.types import DTypeLike, Mask
from optkit.method import Method
from optkit.variance_reduction._mars import MARS, MarsCorrection, checked
from optkit.variance_reduction._mars_chain import adam, corrected_chain, corrected_or_other, step

__all__ = ["mars_adamw"]


def mars_adamw(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.95,
    b2: jax.typing.ArrayLike = 0.99,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    gamma: optax.ScalarOrSchedule = 0.025,
    corrected: Any | None = None,
    weight_dimension_numbers: Any | None = None,
    correction: MarsCorrection | None = None,
    others: optax.GradientTransformation | None = None,
    trainable: Mask | None = None,
    amsgrad: bool = False,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """AdamW on gradients corrected by `reduce_variance`, for matrices; plain AdamW for all other parameters.

    The update rule for matrices, where c is the clipped gradient from `reduce_variance` and t the number of the step::

        m = b1 * m + (1 - b1) * c
        v = b2 * v + (1 - b2) * c**2
        u = (m / (1 - b1**t)) / (sqrt(v / (1 - b2**t)) + eps)
        x = x - lr * (u + wd * x)

    Use it in place of AdamW to train transformers. The authors clip the raw gradients to global norm 1 before it, warm
    the learning rate up, and use about ten times AdamW's learning rate. Avoid it when the scale of the loss is
    arbitrary, because it is not invariant to that scale as AdamW is: the corrections are clipped. It keeps one number
    per corrected parameter more than AdamW.

    With `correction=MarsCorrection(exact=True)` it calls `grad_fn` itself; see `reduce_variance` for how to clip and
    how to accumulate gradients in that case.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. The authors use 3e-3.
        b1: Decay rate of the first moment, in [0, 1). Default: 0.95. The correction uses it too.
        b2: Decay rate of the second moment, in [0, 1). Default: 0.99.
        eps: Added to the square root of the second moment, at least 0. Default: 1e-8.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0. It acts on the corrected leaves.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        gamma: See `reduce_variance`. Default: 0.025.
        corrected: Which leaves are corrected: a tree of booleans, or a function that makes it from the parameters, or
            True for all leaves (the authors' `optimize_1d`). Default: the matrices.
        weight_dimension_numbers: Which axes of each matrix are inputs and which are outputs, as in
            `optax.contrib.muon`. A tree with None for leaves that are not matrices, a function that makes it from the
            parameters, or one `MuonDimensionNumbers` for all leaves with two or more axes. `flax_dimension_numbers`
            makes it for Flax models. Axes that are neither count separate matrices, each of which is clipped by itself.
            Default: leaves with exactly two axes are matrices.
        correction: The other options of the correction, a `MarsCorrection`. Default: `MarsCorrection()`, the authors'
            choices.
        others: The optimizer of all other parameters. It is used as it is, with its own learning rate, decay and mask,
            in float32 at least; `optax.partition` combines several optimizers into one. Default: AdamW with
            `learning_rate`, the authors' decay rates 0.9 and 0.95, `eps`, `amsgrad`, and weight decay 0.1 for the
            leaves of `mask`. The authors' GPT-2 configurations give these leaves half the learning rate of the
            matrices.
        trainable: Which leaves are trained: a tree of booleans, or a function that makes it from the parameters.
            Default: all. The other leaves get updates of zero.
        amsgrad: Whether the largest second moment so far is used. Default: False.
        mu_dtype: Dtype of the first moment. Default: that of the parameters, but at least float32.

    Returns:
        An optimizer. Its state holds three numbers per corrected parameter (two with `keep_params=False`, one more with
        `amsgrad`) and two per other parameter.

    Raises:
        ValueError: If a hyperparameter is out of its range. From `init`, if no leaf is corrected although a leaf has
            two or more axes, or if by default a leaf with two or more axes is called `bias` or `scale`.
        TypeError: If a static argument is an array or has a wrong type.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.mars_adamw(0.5)
        >>> params = {"kernel": jnp.array([[3.0, -4.0]])}
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> optax.apply_updates(params, updates)["kernel"].round(2)
        Array([[ 2.5, -3.5]], dtype=float32)

    Reference:
        arXiv:2411.10438
    """
    refuse_arrays(corrected=corrected, weight_dimension_numbers=weight_dimension_numbers, mu_dtype=mu_dtype)
    check_range("weight_decay", weight_decay, 0.0)

    def kinds(tree):
        return corrected_or_other("mars_adamw", tree, corrected, weight_dimension_numbers)

    def moved(decay, **moments):
        preconditioner = adam(**moments, eps=eps, amsgrad=amsgrad, mu_dtype=mu_dtype)
        return lambda mask: step("mars_adamw", preconditioner, learning_rate, decay, mask)

    return corrected_chain(
        "mars_adamw",
        gamma,
        b1,
        checked(correction),
        kinds,
        lambda _, mask: {"corrected": moved(weight_decay, b1=b1, b2=b2)(mask)},
        others,
        moved(0.1, b1=0.9, b2=0.95),
        corrected=("corrected",),
        mask=mask,
        trainable=trainable,
    )


METHODS = (
    Method(
        name="mars_adamw",
        factory=mars_adamw,
        kind="optimizer",
        summary="AdamW on gradients that are corrected by their change since the last step and then clipped.",
        paper=MARS,
        also_known_as=("MARS", "MARS-AdamW"),
        example={"learning_rate": 1e-2, "weight_decay": 0.0},
        grid=3e-3,
        tunable={"gamma": (0.001, 0.1, "log")},
        golden="mars",
    ),
)
