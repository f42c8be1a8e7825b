"""MARS-AdamW: AdamW on the corrected gradients of matrices, and plain AdamW on all other parameters.

Yuan, Liu, Wu, Zhou, Gu, "MARS: Unleashing the Power of Variance Reduction for Training Large Models", 2024,
arXiv:2411.10438. Algorithm 2; the treatment of parameters that are no matrices and AMSGrad are those of the authors'
code. See `mars` for what parts it from the paper.
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

    The authors clip the raw gradients to global norm 1 before it, warm up, and take about ten times AdamW's learning
    rate. Do not take it where the loss's scale is arbitrary: unlike AdamW it is not invariant to it, since corrections
    are clipped.

    With `correction=MarsCorrection(exact=True)` it calls `grad_fn` itself: `reduce_variance` says how to clip and how
    to accumulate gradients then.

    Args:
        learning_rate: a positive number or a schedule; the authors' default is 3e-3.
        b1: decay of the first moment, and of the correction, in [0, 1); default 0.95.
        b2: decay of the second moment, in [0, 1); default 0.99.
        eps: added to the root of the second moment, at least 0; default 1e-8.
        weight_decay: strength of the decoupled decay of the corrected leaves, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        gamma: strength of the correction, at least 0; a number or a schedule; default 0.025.
        corrected: the leaves that are corrected, given as `mask` is; None: matrices. True for all (the authors'
            `optimize_1d`).
        weight_dimension_numbers: which axes of matrices are inputs and outputs, as Optax's Muon takes it: a tree with
            None for leaves that are no matrices, a function that makes it from the parameters, or one for all leaves of
            two axes or more. `flax_dimension_numbers` has those of Flax's layers. Other axes count matrices, each of
            which is clipped by itself. By default leaves of exactly two axes are matrices.
        correction: what else shapes the correction, a `MarsCorrection`; default None, as the authors have it.
        others: the optimizer of all other parameters, taken as it is: with its own learning rate, decay and mask, in
            float32 at least; `optax.partition` makes one of several. None: AdamW at `learning_rate` with the authors'
            0.9, 0.95 and decay 0.1 under `mask`, with `eps` and `amsgrad`. Their GPT-2 configurations give these leaves
            half the rate of the matrices.
        trainable: tree of booleans, or a function that makes it from the parameters: the leaves that move. All by
            default. The others get updates of zero.
        amsgrad: takes the largest second moment so far. Off by default.
        mu_dtype: dtype of the first moments; default the parameters', but at least float32.

    Returns:
        An optimizer; its state is three numbers a corrected parameter (two with `keep_params=False`, one more with
        `amsgrad`) and two for each of the others.

    Raises:
        ValueError: if a hyperparameter is out of its range; from `init`, if no leaf is corrected although one has two
            axes or more, or if by default a leaf of two axes or more is called `bias` or `scale`.
        TypeError: if a static argument is an array, or one of another type.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.mars_adamw(0.5)
        >>> params = {"kernel": jnp.array([[3.0, -4.0]])}
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> optax.apply_updates(params, updates)["kernel"].round(2)
        Array([[ 2.5, -3.5]], dtype=float32)

    Reference:
        Yuan, Liu, Wu, Zhou, Gu, "MARS: Unleashing the Power of Variance Reduction for Training Large Models", 2024,
        arXiv:2411.10438.
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
        summary="AdamW on gradients that are corrected by their change since the last step, and clipped leaf by leaf.",
        paper=MARS,
        also_known_as=("MARS", "MARS-AdamW"),
        example={"learning_rate": 1e-2, "weight_decay": 0.0},
        grid=3e-3,
        golden="mars",
    ),
)
