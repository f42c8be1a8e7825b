"""MARS-M: Muon on the corrected gradients of matrices, in the scaling of Moonlight.

Liu, Yuan, Gu, "MARS-M: When Variance Reduction Meets Matrices", 2025, arXiv:2510.21800. Algorithm 1; the rule is that
of the authors' code (AGI-Arena/MARS), where the correction is clipped whatever its option says, AdamW for all other
parameters adds epsilon to the uncorrected root of the second moment, and Newton-Schulz runs in bfloat16 (here in
float32 unless `orthogonalize` says otherwise). Where a leaf is several matrices each has a norm of its own, and
not, as in that code, all together one.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import optax

from optkit.core.adam import scale_by_adam
from optkit.core.checks import check_range
from optkit.core.injection import refuse_arrays
from optkit.core.linalg.newton_schulz import newton_schulz
from optkit.core.types import DTypeLike, Mask
from optkit.method import Method, Paper
from optkit.variance_reduction._mars import MarsCorrection, checked
from optkit.variance_reduction._mars_chain import (
    corrected_chain,
    fits_one_buffer,
    kinds_of_matrices,
    momentum,
    scale_by_matrices,
    step,
)

__all__ = ["mars_m"]


def mars_m(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.95,
    weight_decay: float | jax.Array = 0.1,
    mask: Mask | None = None,
    *,
    gamma: optax.ScalarOrSchedule = 0.025,
    corrected: Any | None = None,
    weight_dimension_numbers: Any | None = None,
    correction: MarsCorrection | None = None,
    others: optax.GradientTransformation | None = None,
    trainable: Mask | None = None,
    orthogonalize: Callable[[jax.Array], jax.Array] | None = None,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Muon on gradients corrected by `reduce_variance`, for matrices; AdamW for all other parameters.

    Unlike `optax.contrib.muon` it has no Nesterov momentum and no bias correction, and scales a matrix's update by
    `0.2 * sqrt(max(rows, columns))`, so that both kinds of leaves share AdamW's learning rate. Without clipping
    (`MarsCorrection(max_norm=None)`), in approximate form, and with a `gamma` that is a Python number, it keeps one
    number a matrix entry in place of two: see `scale_by_mars_momentum`. By default all matrices are corrected; the
    authors leave embeddings and the last layer to AdamW: leave them out of `corrected`.

    With `correction=MarsCorrection(exact=True)` it calls `grad_fn` itself: `reduce_variance` says how to clip and how
    to accumulate gradients then.

    Args:
        learning_rate: a positive number or a schedule, for both kinds of leaves; the authors' default is 1e-3.
        b1: decay of the momentum, and of the correction, in [0, 1); default 0.95.
        weight_decay: strength of the decoupled decay, at least 0; default 0.1.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        gamma: strength of the correction, at least 0; a number or a schedule; default 0.025.
        corrected: the leaves that are corrected and orthogonalized, given as `mask` is; None, or True for all, leaves
            that are matrices. A leaf that has no numbers is one by its last two axes: others count matrices.
        weight_dimension_numbers: which axes of matrices are inputs and outputs, as Optax's Muon takes it: a tree with
            None for leaves that are no matrices, a function that makes it from the parameters, or one for all leaves of
            two axes or more. `flax_dimension_numbers` has those of Flax's layers. Other axes count matrices, each of
            which is clipped and orthogonalized by itself. By default leaves of exactly two axes are matrices.
        correction: what else shapes the correction, a `MarsCorrection`; default None, as the authors have it.
        others: the optimizer of all other parameters, taken as it is: with its own learning rate, decay and mask, in
            float32 at least; `optax.partition` makes one of several. None: AdamW at `learning_rate`, as the authors
            have it in all their configurations, with their 0.9, 0.95, epsilon 1e-8 beside the uncorrected root of the
            second moment, and with `weight_decay` under `mask`.
        trainable: tree of booleans, or a function that makes it from the parameters: the leaves that move. All by
            default. The others get updates of zero.
        orthogonalize: moves the singular values of stacked matrices towards one. None: `optkit.linalg.newton_schulz`
            with five steps, in float32 at least; the authors compute it with `dtype=jnp.bfloat16`.
        mu_dtype: dtype of the momenta; default the parameters', but at least float32.

    Returns:
        An optimizer; its state is two numbers an entry of a corrected leaf, one without clipping, and two for each
        other parameter.

    Raises:
        ValueError: if a hyperparameter is out of its range; from `init`, if no leaf is corrected although one has two
            axes or more, or if by default a leaf of two axes or more is called `bias` or `scale`.
        TypeError: if a static argument is an array, or one of another type.

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
    refuse_arrays(
        corrected=corrected,
        weight_dimension_numbers=weight_dimension_numbers,
        mu_dtype=mu_dtype,
    )
    check_range("weight_decay", weight_decay, 0.0)
    orthogonal = newton_schulz if orthogonalize is None else orthogonalize
    shape = checked(correction)
    one_buffer = fits_one_buffer(gamma, shape)

    def direction(m):
        rms = 0.2 * math.sqrt(max(m.shape[-2:]))  # Alg. 1, 0.2 sqrt(max(A, B))
        return rms * orthogonal(m)

    def matrices(numbers, mask):
        orthogonalized = optax.chain(
            momentum(b1, gamma, one_buffer=one_buffer, mu_dtype=mu_dtype),  # Alg. 1, M_t
            scale_by_matrices(direction, numbers),  # Alg. 1, O_t
        )
        return {"matrix": step("mars_m", orthogonalized, learning_rate, weight_decay, mask)}

    def default_others(mask):
        preconditioner = scale_by_adam(0.9, 0.95, 1e-8, eps_placement="pre", mu_dtype=mu_dtype)
        return step("mars_m", preconditioner, learning_rate, weight_decay, mask)

    return corrected_chain(
        "mars_m",
        gamma,
        b1,
        shape,
        lambda tree: kinds_of_matrices("mars_m", tree, corrected, weight_dimension_numbers),
        matrices,
        others,
        default_others,
        corrected=() if one_buffer else ("matrix",),
        mask=mask,
        trainable=trainable,
    )


METHODS = (
    Method(
        name="mars_m",
        factory=mars_m,
        kind="optimizer",
        summary="Muon, in Moonlight's scaling, on MARS-corrected gradients; AdamW for other parameters.",
        paper=Paper("MARS-M: When Variance Reduction Meets Matrices", "Liu, Yuan, Gu", 2025, "2510.21800"),
        also_known_as=("MARS-M",),
        example={"learning_rate": 1e-2, "weight_decay": 0.0},
        grid=3e-3,
    ),
)
