"""MARS-AdamW: AdamW on the corrected gradients of matrices, and plain AdamW on all other parameters.

Yuan, Liu, Wu, Zhou, Gu, "MARS: Unleashing the Power of Variance Reduction for Training Large Models", 2024,
arXiv:2411.10438. Algorithm 2; the treatment of parameters that are no matrices and AMSGrad are those of the authors'
code. See `mars` for what parts it from the paper.
"""

import functools
from typing import Any

import jax
import optax

from optkit.core.checks import check_range
from optkit.variance_reduction.mars import ClipScope, FirstStep, reduce_variance
from optkit.variance_reduction.mars_chain import adam, corrected_chain, is_matrix, plain_adamw


def mars_adamw(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.95,
    b2: jax.typing.ArrayLike = 0.99,
    eps: jax.typing.ArrayLike = 1e-8,
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
    weight_decay_1d: float | jax.Array = 0.1,
    amsgrad: bool = False,
    mu_dtype: Any | None = None,
    reference_dtype: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    """AdamW on gradients corrected by `reduce_variance`, for matrices; plain AdamW for all other parameters.

    The authors clip the raw gradients to global norm 1 before it, warm up, and take about ten times AdamW's learning
    rate. Do not take it where the loss's scale is arbitrary: unlike AdamW it is not invariant to it, since corrections
    are clipped.

    Args:
        learning_rate: a positive number or a schedule; the authors' default is 3e-3.
        b1: decay of the first moment, and of the correction, in [0, 1); default 0.95.
        b2: decay of the second moment, in [0, 1); default 0.99.
        eps: added to the root of the second moment, at least 0; default 1e-8.
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
        corrected: the leaves that are corrected, given as `mask` is; by default those with two axes. True for all (the
            authors' `optimize_1d`).
        learning_rate_ratio_1d: learning rate of the leaves that are not corrected over that of those that are, at least
            0; default 1.
        b1_1d: decay of their first moment, in [0, 1); default 0.9.
        b2_1d: decay of their second moment, in [0, 1); default 0.95.
        weight_decay_1d: strength of their decoupled decay, at least 0; default 0.1.
        amsgrad: takes the largest second moment so far, for all leaves. Off by default.
        mu_dtype: dtype of the first moments; default the parameters', but at least float32.
        reference_dtype: dtype of the gradients that are kept; default the parameters', but at least float32. bfloat16
            loses nothing where gradients are bfloat16.

    Returns:
        An optimizer; its state is three numbers a corrected parameter (two with `keep_params=False`, one more with
        `amsgrad`) and two for each of the others.

    Raises:
        ValueError: if a hyperparameter is out of its range.

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
    check_range("weight_decay", weight_decay, 0.0)
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
        adam(b1, b2, eps, amsgrad=amsgrad, mu_dtype=mu_dtype),
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
        ("corrected",),
        {"corrected": matrices, "other": others},
        {"other": None, "corrected": corrected},
        mask,
    )
