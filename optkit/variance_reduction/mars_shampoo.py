"""MARS-Shampoo: the corrected gradients' momentum with orthogonalized matrices; AdamW on all other parameters.

Yuan, Liu, Wu, Zhou, Gu, "MARS: Unleashing the Power of Variance Reduction for Training Large Models", 2024,
arXiv:2411.10438. Algorithm 4, whose factorization the authors' code replaces by five Newton-Schulz iterations (in
bfloat16; here in float32 unless `newton_schulz_dtype` says otherwise). See `mars` for what else parts code and paper.
"""

import functools
from typing import Any

import jax
import optax

from optkit.core.checks import check_range
from optkit.core.newton_schulz import orthogonalize
from optkit.core.stacking import map_equal_shapes
from optkit.core.trees import mask_tree, unmask_tree
from optkit.variance_reduction.mars import ClipScope, FirstStep, reduce_variance
from optkit.variance_reduction.mars_chain import (
    adam,
    corrected_chain,
    fits_one_buffer,
    is_matrix,
    momentum,
    plain_adamw,
)


def _scale_by_orthogonalization(
    b1: jax.typing.ArrayLike, eps: jax.typing.ArrayLike, steps: int, dtype: Any | None
) -> optax.GradientTransformation:
    def direction(m):
        stretch = max(1.0, m.shape[-2] / max(m.shape[-1], 1)) ** 0.5
        # The authors' epsilon counts beside the norm of the momentum over 1 - b1.
        return stretch * orthogonalize(m / (1 - b1), steps=steps, eps=eps, dtype=dtype)

    return optax.stateless(lambda updates, _: map_equal_shapes(direction, updates))


def mars_shampoo(
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
    newton_schulz_steps: int = 5,
    newton_schulz_dtype: Any | None = None,
    mu_dtype: Any | None = None,
    reference_dtype: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Orthogonalizes the momentum of gradients corrected by `reduce_variance`, for matrices; AdamW for the others.

    Every singular value of a matrix's update is about the learning rate, times the root of rows over columns where
    there are more rows. Without clipping (`max_norm=None`), in approximate form, it keeps one number a matrix entry in
    place of two: see `scale_by_mars_momentum`. Do not take it for matrices whose rows are seldom touched, such as
    embeddings: a row without gradient hardly moves the others, but noise is enlarged as much as signal.

    Args:
        learning_rate: a positive number or a schedule.
        b1: decay of the momentum, and of the correction, in [0, 1); default 0.95.
        b2: decay of Adam's second moment for corrected leaves that are no matrices, in [0, 1); default 0.99.
        eps: added to the root of second moments and to the Frobenius norm of the momentum over `1 - b1`, at least 0;
            default 1e-8.
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
            authors' `optimize_1d`): those that are no matrices then take Adam's preconditioner behind the correction.
        learning_rate_ratio_1d: learning rate of the leaves that are not corrected over that of those that are, at least
            0; default 1.
        b1_1d: decay of their first moment, in [0, 1); default 0.9.
        b2_1d: decay of their second moment, in [0, 1); default 0.95.
        weight_decay_1d: strength of their decoupled decay, at least 0; default 0.1.
        amsgrad: takes the largest second moment so far, where there is one. Off by default.
        newton_schulz_steps: number of Newton-Schulz iterations, at least 0; default 5.
        newton_schulz_dtype: what they are computed in; default float32 at least; the authors' is bfloat16.
        mu_dtype: dtype of the momenta; default the parameters', but at least float32.
        reference_dtype: dtype of the gradients that are kept; default the parameters', but at least float32.

    Returns:
        An optimizer; its state is two numbers an entry of a corrected matrix, one without clipping, and two for each
        other parameter (three where it is corrected, one more with `amsgrad`).

    Raises:
        ValueError: if a hyperparameter is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.mars_shampoo(0.5)
        >>> params = {"kernel": jnp.array([[3.0, 0.0], [0.0, -2.0]])}
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> optax.apply_updates(params, updates)["kernel"].round(2)
        Array([[ 2.44,  0.  ],
               [ 0.  , -1.66]], dtype=float32)

    Reference:
        Yuan, Liu, Wu, Zhou, Gu, "MARS: Unleashing the Power of Variance Reduction for Training Large Models", 2024,
        arXiv:2411.10438.
    """
    check_range("weight_decay", weight_decay, 0.0)
    check_range("newton_schulz_steps", newton_schulz_steps, 0)
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
        momentum(b1, gamma, one_buffer=one_buffer, mu_dtype=mu_dtype),  # Alg. 4, m_t
        _scale_by_orthogonalization(b1, eps, newton_schulz_steps, newton_schulz_dtype),  # Alg. 4, U_t V_t^T
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )
    corrected_others = optax.chain(
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

    def corrected_matrices(tree):
        nowhere = jax.tree.map(lambda _: False, tree)
        return unmask_tree(is_matrix(mask_tree(corrected, tree)), nowhere)

    return corrected_chain(
        correction,
        ("vector",) if one_buffer else ("matrix", "vector"),
        {"matrix": matrices, "vector": corrected_others, "other": others},
        {"other": None, "vector": corrected, "matrix": corrected_matrices},
        mask,
    )
