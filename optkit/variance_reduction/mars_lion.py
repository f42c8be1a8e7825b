"""MARS-Lion: the sign of the corrected gradients' momentum, and plain AdamW on parameters that are no matrices.

Yuan, Liu, Wu, Zhou, Gu, "MARS: Unleashing the Power of Variance Reduction for Training Large Models", 2024,
arXiv:2411.10438. Algorithm 3. The momentum is one average, not Lion's interpolation of two. See `mars` for what parts
the authors' code, whose rule this is, from the paper.
"""

import functools
from typing import Any

import jax
import optax

from optkit.core.checks import check_range
from optkit.variance_reduction.mars import ClipScope, FirstStep, reduce_variance
from optkit.variance_reduction.mars_chain import corrected_chain, fits_one_buffer, is_matrix, momentum, plain_adamw


def mars_lion(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.95,
    weight_decay: float | jax.Array = 0.0,
    mask: Any | None = None,
    *,
    gamma: optax.ScalarOrSchedule = 0.025,
    max_norm: jax.typing.ArrayLike | None = 1.0,
    clip_scope: ClipScope = "leaf",
    exact: bool = False,
    keep_params: bool = True,
    first_step: FirstStep = "zero_reference",
    corrected: Any = is_matrix,
    learning_rate_ratio_1d: jax.typing.ArrayLike = 1.0,
    b1_1d: jax.typing.ArrayLike = 0.9,
    b2_1d: jax.typing.ArrayLike = 0.95,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay_1d: float | jax.Array = 0.1,
    amsgrad: bool = False,
    mu_dtype: Any | None = None,
    reference_dtype: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The sign of the momentum of gradients corrected by `reduce_variance`, for matrices; plain AdamW for the others.

    Without clipping (`max_norm=None`), in approximate form, it keeps one number a parameter in place of two: see
    `scale_by_mars_momentum`. Do not take it where gradients are mostly noise: the sign of a small average moves as far
    as that of a large one.

    Args:
        learning_rate: a positive number or a schedule; Lion's.
        b1: decay of the momentum, and of the correction, in [0, 1); default 0.95.
        weight_decay: strength of the decoupled decay of the corrected leaves, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that the optimizer works on.
            All by default. The gradients of the others pass through.
        gamma: strength of the correction, at least 0; a number or a schedule; default 0.025.
        max_norm: largest norm of a corrected gradient, above 0; default 1. None does not clip.
        clip_scope: `"leaf"` (default) clips each leaf by itself, `"global"` all corrected ones together.
        exact: compares with this batch's gradient at the last parameters; off by default: with the last gradient.
        keep_params: in exact form, whether the last parameters are kept and `update` takes `grad_fn` (default) or
            nothing is and it takes `prev_grads`.
        first_step: `"zero_reference"` (default, the authors' code) or `"no_correction"` (the paper).
        corrected: the leaves that are corrected and take the sign, given as `mask` is; by default those with two axes.
            True for all (the authors' `optimize_1d`).
        learning_rate_ratio_1d: learning rate of the other leaves' AdamW over that of the corrected ones, at least 0;
            default 1.
        b1_1d: decay of AdamW's first moment, in [0, 1); default 0.9.
        b2_1d: decay of AdamW's second moment, in [0, 1); default 0.95.
        eps: AdamW's, added to the root of the second moment, at least 0; default 1e-8.
        weight_decay_1d: strength of AdamW's decay, at least 0; default 0.1.
        amsgrad: AdamW takes the largest second moment so far. Off by default.
        mu_dtype: dtype of the momenta; default the parameters', but at least float32.
        reference_dtype: dtype of the gradients that are kept; default the parameters', but at least float32.

    Returns:
        An optimizer; its state is two numbers a corrected parameter, one without clipping, and two for each other one.

    Raises:
        ValueError: if a hyperparameter is out of its range.

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
    check_range("weight_decay", weight_decay, 0.0)
    one_buffer = fits_one_buffer(gamma, max_norm, exact, first_step)
    correction = functools.partial(
        reduce_variance,
        gamma,
        b1,
        max_norm=max_norm,
        clip_scope=clip_scope,
        exact=exact,
        keep_params=keep_params,
        first_step=first_step,
        reference_dtype=reference_dtype,
    )
    matrices = optax.chain(
        momentum(b1, gamma, one_buffer=one_buffer, mu_dtype=mu_dtype),  # Alg. 3, m_t
        optax.scale_by_sign(),  # Alg. 3, sign(m_t)
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )
    others = plain_adamw(
        learning_rate,
        b1_1d,
        b2_1d,
        eps,
        weight_decay_1d,
        learning_rate_ratio=learning_rate_ratio_1d,
        amsgrad=amsgrad,
        mu_dtype=mu_dtype,
    )
    return corrected_chain(
        correction,
        () if one_buffer else ("corrected",),
        {"corrected": matrices, "other": others},
        {"other": None, "corrected": corrected},
        mask,
    )
