"""MARS-Lion: the sign of the momentum of corrected gradients, and plain AdamW on parameters that are not matrices.

Yuan, Liu, Wu, Zhou, Gu, "MARS: Unleashing the Power of Variance Reduction for Training Large Models", 2024,
arXiv:2411.10438. Algorithm 3. The momentum is one average, whereas Lion interpolates with two rates. The rule is that
of the authors' code; the module `_mars` lists the differences between the code and the paper.
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

    The update rule for matrices, where c is the clipped gradient from `reduce_variance`::

        m = b1 * m + (1 - b1) * c
        x = x - lr * (sign(m) + wd * x)

    Use it in place of Lion, when state must be smaller than that of `mars_adamw`. Avoid it when gradients are mostly
    noise, because the sign of a small average moves a parameter as far as that of a large one.

    It keeps two numbers per corrected parameter. It keeps only one without clipping (`MarsCorrection(max_norm=None)`),
    in the approximate form, and with a `gamma` that is a Python number; see `scale_by_mars_momentum`.

    With `correction=MarsCorrection(exact=True)` it calls `grad_fn` itself; see `reduce_variance` for how to clip and
    how to accumulate gradients in that case.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. Use one that suits Lion.
        b1: Decay rate of the momentum, in [0, 1). Default: 0.95. The correction uses it too.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0. It acts on the corrected leaves.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        gamma: See `reduce_variance`. Default: 0.025.
        corrected: Which leaves are corrected and moved by the sign: a tree of booleans, or a function that makes it
            from the parameters, or True for all leaves (the authors' `optimize_1d`). Default: the matrices.
        weight_dimension_numbers: Which axes of each matrix are inputs and which are outputs, as in
            `optax.contrib.muon`. A tree with None for leaves that are not matrices, a function that makes it from the
            parameters, or one `MuonDimensionNumbers` for all leaves with two or more axes. `flax_dimension_numbers`
            makes it for Flax models. Axes that are neither count separate matrices, each of which is clipped by itself.
            Default: leaves with exactly two axes are matrices.
        correction: The other options of the correction, a `MarsCorrection`. Default: `MarsCorrection()`, the authors'
            choices.
        others: The optimizer of all other parameters. It is used as it is, with its own learning rate, decay and mask,
            in float32 at least; `optax.partition` combines several optimizers into one. Default: AdamW with
            `learning_rate`, the authors' decay rates 0.9 and 0.95, epsilon 1e-8, and weight decay 0.1 for the leaves of
            `mask`. The authors' GPT-2 configurations give these leaves half the learning rate of the matrices.
        trainable: Which leaves are trained: a tree of booleans, or a function that makes it from the parameters.
            Default: all. The other leaves get updates of zero.
        mu_dtype: Dtype of the momentum. Default: that of the parameters, but at least float32. It is also the dtype of
            AdamW's first moment.

    Returns:
        An optimizer. Its state holds two numbers per corrected parameter (one without clipping, see above) and two per
        other parameter.

    Raises:
        ValueError: If a hyperparameter is out of its range. From `init`, if no leaf is corrected although a leaf has
            two or more axes, or if by default a leaf with two or more axes is called `bias` or `scale`.
        TypeError: If a static argument is an array or has a wrong type. From `init`, if a parameter is complex.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.mars_lion(0.5)
        >>> params = {"kernel": jnp.array([[3.0, -4.0]])}
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> optax.apply_updates(params, updates)["kernel"]
        Array([[ 2.5, -3.5]], dtype=float32)

    Reference:
        arXiv:2411.10438
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
            # A momentum that stays infinite would have a finite sign.
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
        tunable={"gamma": (0.001, 0.1, "log")},
        golden="mars",
    ),
)
