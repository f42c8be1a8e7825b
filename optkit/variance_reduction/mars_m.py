"""MARS-M: Muon on the corrected gradients of matrices, in the scaling of Moonlight.

Liu, Yuan, Gu, "MARS-M: When Variance Reduction Meets Matrices", 2025, arXiv:2510.21800. Algorithm 1; the rule is that
of the authors' code (AGI-Arena/MARS), where the correction is clipped whatever its option says, AdamW for all other
parameters adds epsilon to the uncorrected root of the second moment, and Newton-Schulz runs in bfloat16 (here in
float32 unless `newton_schulz_dtype` says otherwise). Leaves of more than two axes are matrices of their last axis
against all others, and not, as there, batches of matrices under one norm.
"""

import functools
import math
from typing import Any

import jax
import optax

from optkit.core.adam import scale_by_adam
from optkit.core.checks import check_range
from optkit.core.explicit_axes import replicate, shard_like
from optkit.core.newton_schulz import orthogonalize
from optkit.core.stacking import map_equal_shapes
from optkit.variance_reduction.mars import ClipScope, FirstStep, reduce_variance
from optkit.variance_reduction.mars_chain import corrected_chain, fits_one_buffer, is_matrix, momentum


def _scale_by_orthogonalization(steps: int, dtype: Any | None) -> optax.GradientTransformation:
    def direction(stacked):
        """Of leaves of one shape, stacked."""
        shape = stacked.shape[1:]
        if len(shape) < 2:
            raise ValueError(
                f"mars_m orthogonalizes matrices and got a leaf of shape {shape}: leave it out of corrected"
            )
        rms = 0.2 * math.sqrt(max(math.prod(shape[:-1]), shape[-1]))  # Alg. 1, 0.2 sqrt(max(A, B))
        if len(shape) == 2:
            return rms * orthogonalize(stacked, steps=steps, dtype=dtype)
        matrices = replicate(stacked).reshape(len(stacked), -1, shape[-1])
        return shard_like(rms * orthogonalize(matrices, steps=steps, dtype=dtype).reshape(stacked.shape), stacked)

    return optax.stateless(lambda updates, _: map_equal_shapes(direction, updates))


def mars_m(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.95,
    weight_decay: float | jax.Array = 0.1,
    mask: Any | None = None,
    *,
    gamma: optax.ScalarOrSchedule = 0.025,
    max_norm: jax.typing.ArrayLike | None = 1.0,
    clip_scope: ClipScope = "leaf",
    exact: bool = False,
    keep_params: bool = True,
    first_step: FirstStep = "zero_reference",
    corrected: Any = is_matrix,
    adamw_b1: jax.typing.ArrayLike = 0.9,
    adamw_b2: jax.typing.ArrayLike = 0.95,
    adamw_eps: jax.typing.ArrayLike = 1e-8,
    newton_schulz_steps: int = 5,
    newton_schulz_dtype: Any | None = None,
    mu_dtype: Any | None = None,
    reference_dtype: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Muon on gradients corrected by `reduce_variance`, for matrices; AdamW for all other parameters.

    Unlike `optax.contrib.muon` it has no Nesterov momentum and no bias correction, and scales a matrix's update by
    `0.2 * sqrt(max(rows, columns))`, so that both kinds of leaves share AdamW's learning rate. Without clipping
    (`max_norm=None`), in approximate form, it keeps one number a matrix entry in place of two: see
    `scale_by_mars_momentum`. The default `corrected` takes all matrices; the authors leave embeddings and the last
    layer to AdamW: leave them out.

    Args:
        learning_rate: a positive number or a schedule, for both kinds of leaves; the authors' default is 1e-3.
        b1: decay of the momentum, and of the correction, in [0, 1); default 0.95.
        weight_decay: strength of the decoupled decay of all leaves, at least 0; default 0.1.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that the optimizer works on.
            All by default. The gradients of the others pass through.
        gamma: strength of the correction, at least 0; a number or a schedule; default 0.025.
        max_norm: largest norm of a corrected gradient, above 0; default 1. None does not clip.
        clip_scope: `"leaf"` (default) clips each leaf by itself, `"global"` all corrected ones together.
        exact: compares with this batch's gradient at the last parameters; off by default: with the last gradient.
        keep_params: in exact form, whether the last parameters are kept and `update` takes `grad_fn` (default) or
            nothing is and it takes `prev_grads`.
        first_step: `"zero_reference"` (default, the authors' code) or `"no_correction"` (the paper).
        corrected: the leaves that are corrected and orthogonalized, given as `mask` is; by default those with two axes.
            A leaf of more axes is taken as the matrix of its last axis (Flax's output channels) against all others.
        adamw_b1: decay of AdamW's first moment, in [0, 1); default 0.9.
        adamw_b2: decay of AdamW's second moment, in [0, 1); default 0.95.
        adamw_eps: AdamW's, added to the uncorrected root of the second moment, at least 0; default 1e-8.
        newton_schulz_steps: number of Newton-Schulz iterations, at least 0; default 5.
        newton_schulz_dtype: what they are computed in; default float32 at least; the authors' is bfloat16.
        mu_dtype: dtype of the momenta; default the parameters', but at least float32.
        reference_dtype: dtype of the gradients that are kept; default the parameters', but at least float32.

    Returns:
        An optimizer; its state is two numbers an entry of a corrected leaf, one without clipping, and two for each
        other parameter.

    Raises:
        ValueError: if a hyperparameter is out of its range, or a corrected leaf has less than two axes.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.mars_m(1.0, weight_decay=0.0)
        >>> params = {"kernel": jnp.array([[3.0, 0.0], [0.0, -2.0]])}
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> jnp.diag(updates["kernel"]).round(2)  # about 0.2 * sqrt(2)
        Array([-0.32,  0.19], dtype=float32)

    Reference:
        Liu, Yuan, Gu, "MARS-M: When Variance Reduction Meets Matrices", 2025, arXiv:2510.21800.
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
        momentum(b1, gamma, one_buffer=one_buffer, mu_dtype=mu_dtype),  # Alg. 1, M_t
        _scale_by_orthogonalization(newton_schulz_steps, newton_schulz_dtype),  # Alg. 1, O_t
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )
    others = optax.chain(
        scale_by_adam(adamw_b1, adamw_b2, adamw_eps, eps_placement="pre", mu_dtype=mu_dtype),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )
    return corrected_chain(
        correction,
        () if one_buffer else ("matrix",),
        {"matrix": matrices, "other": others},
        {"other": None, "matrix": corrected},
        mask,
    )
