"""MARS-Lion: the sign of the corrected gradients' momentum, and plain AdamW on parameters that are no matrices.

Yuan, Liu, Wu, Zhou, Gu, "MARS: Unleashing the Power of Variance Reduction for Training Large Models", 2024,
arXiv:2411.10438. Algorithm 3. The momentum is one average, not Lion's interpolation of two. See `mars` for what parts
the authors' code, whose rule this is, from the paper.
"""

from typing import Any

import jax
import optax

from optkit.core.checks import check_range
from optkit.core.complex_numbers import refuse_complex
from optkit.core.injection import refuse_arrays
from optkit.core.non_finite import nan_for_infinite
from optkit.core.types import DTypeLike, Mask
from optkit.method import Method
from optkit.variance_reduction._mars import MARS, MarsCorrection, checked
from optkit.variance_reduction._mars_chain import (
    adam,
    corrected_chain,
    corrected_or_other,
    fits_one_buffer,
    momentum,
    step,
)

__all__ = ["mars_lion"]


def mars_lion(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.95,
    weight_decay: float | jax.Array = 0.0,
    mask: Mask | None = None,
    *,
    gamma: optax.ScalarOrSchedule = 0.025,
    corrected: Any | None = None,
    weight_dimension_numbers: Any | None = None,
    correction: MarsCorrection | None = None,
    others: optax.GradientTransformation | None = None,
    trainable: Mask | None = None,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The sign of the momentum of gradients corrected by `reduce_variance`, for matrices; plain AdamW for the others.

    Without clipping (`MarsCorrection(max_norm=None)`), in approximate form, and with a `gamma` that is a Python number,
    it keeps one number a parameter in place of two: see `scale_by_mars_momentum`. Do not take it where gradients are
    mostly noise: the sign of a small average moves as far as that of a large one.

    With `correction=MarsCorrection(exact=True)` it calls `grad_fn` itself: `reduce_variance` says how to clip and how
    to accumulate gradients then.

    Args:
        learning_rate: a positive number or a schedule; Lion's.
        b1: decay of the momentum, and of the correction, in [0, 1); default 0.95.
        weight_decay: strength of the decoupled decay of the corrected leaves, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        gamma: strength of the correction, at least 0; a number or a schedule; default 0.025.
        corrected: the leaves that are corrected and take the sign, given as `mask` is; None: matrices. True for all
            (the authors' `optimize_1d`).
        weight_dimension_numbers: which axes of matrices are inputs and outputs, as Optax's Muon takes it: a tree with
            None for leaves that are no matrices, a function that makes it from the parameters, or one for all leaves of
            two axes or more. `flax_dimension_numbers` has those of Flax's layers. Other axes count matrices, each of
            which is clipped by itself. By default leaves of exactly two axes are matrices.
        correction: what else shapes the correction, a `MarsCorrection`; default None, as the authors have it.
        others: the optimizer of all other parameters, taken as it is: with its own learning rate, decay and mask, in
            float32 at least; `optax.partition` makes one of several. None: AdamW at `learning_rate` with the authors'
            0.9, 0.95, epsilon 1e-8, and decay 0.1 under `mask`. Their GPT-2 configurations give these leaves half the
            rate of the matrices.
        trainable: tree of booleans, or a function that makes it from the parameters: the leaves that move. All by
            default. The others get updates of zero.
        mu_dtype: dtype of the momenta; default the parameters', but at least float32.

    Returns:
        An optimizer; its state is two numbers a corrected parameter, one without clipping, and two for each other one.

    Raises:
        ValueError: if a hyperparameter is out of its range; from `init`, if no leaf is corrected although one has two
            axes or more, or if by default a leaf of two axes or more is called `bias` or `scale`.
        TypeError: if a static argument is an array, or one of another type; from `init`, if a parameter is complex.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.mars_lion(0.5)
        >>> params = {"kernel": jnp.array([[3.0, -4.0]])}
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> optax.apply_updates(params, updates)["kernel"]
        Array([[ 2.5, -3.5]], dtype=float32)

    Reference:
        Yuan, Liu, Wu, Zhou, Gu, "MARS: Unleashing the Power of Variance Reduction for Training Large Models", 2024,
        arXiv:2411.10438.
    """
    refuse_arrays(corrected=corrected, weight_dimension_numbers=weight_dimension_numbers, mu_dtype=mu_dtype)
    check_range("weight_decay", weight_decay, 0.0)
    shape = checked(correction)
    one_buffer = fits_one_buffer(gamma, shape)

    def kinds(tree):
        refuse_complex(tree, "mars_lion", functions=shape.exact)
        return corrected_or_other("mars_lion", tree, corrected, weight_dimension_numbers)

    def signed(mask):
        direction = optax.chain(
            momentum(b1, gamma, one_buffer=one_buffer, mu_dtype=mu_dtype),  # Alg. 3, m_t
            # Infinite for ever, a momentum would have a finite sign.
            optax.stateless(lambda updates, _: nan_for_infinite(updates)),
            optax.scale_by_sign(),  # Alg. 3, sign(m_t)
        )
        return step("mars_lion", direction, learning_rate, weight_decay, mask)

    def default_others(mask):
        return step("mars_lion", adam(0.9, 0.95, 1e-8, amsgrad=False, mu_dtype=mu_dtype), learning_rate, 0.1, mask)

    return corrected_chain(
        "mars_lion",
        gamma,
        b1,
        shape,
        kinds,
        lambda _, mask: {"corrected": signed(mask)},
        others,
        default_others,
        corrected=() if one_buffer else ("corrected",),
        mask=mask,
        trainable=trainable,
    )


METHODS = (
    Method(
        name="mars_lion",
        factory=mars_lion,
        kind="optimizer",
        summary="The sign of the momentum of MARS-corrected gradients; AdamW for other parameters.",
        paper=MARS,
        also_known_as=("MARS-Lion",),
        example={"learning_rate": 1e-2, "weight_decay": 0.0},
        grid=1e-3,
        golden="mars",
    ),
)
