"""MARS-Shampoo: the corrected gradients' momentum with orthogonalized matrices; AdamW on all other parameters.

Yuan, Liu, Wu, Zhou, Gu, "MARS: Unleashing the Power of Variance Reduction for Training Large Models", 2024,
arXiv:2411.10438. Algorithm 4, whose factorization the authors' code replaces by five Newton-Schulz iterations (in
bfloat16; here in float32 unless `orthogonalize` says otherwise). See `mars` for what else parts code and paper.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax

from optkit.core.checks import check_range
from optkit.core.injection import refuse_arrays
from optkit.core.linalg.newton_schulz import newton_schulz
from optkit.core.types import DTypeLike, Mask
from optkit.method import Method
from optkit.variance_reduction._mars import MARS, MarsCorrection, checked
from optkit.variance_reduction._mars_chain import (
    adam,
    corrected_chain,
    fits_one_buffer,
    kinds_of_corrected,
    momentum,
    scale_by_matrices,
    step,
)

__all__ = ["mars_shampoo"]


def mars_shampoo(
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
    orthogonalize: Callable[[jax.Array], jax.Array] | None = None,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Orthogonalizes the momentum of gradients corrected by `reduce_variance`, for matrices; AdamW for the others.

    Every singular value of a matrix's update is about the learning rate, times the root of rows over columns, as the
    leaf has them, where there are more rows. Without clipping (`MarsCorrection(max_norm=None)`), in approximate form,
    and with a `gamma` that is a Python number, it keeps one number a matrix entry in place of two: see
    `scale_by_mars_momentum`. Do not take it for matrices whose rows are seldom touched, such as embeddings: a row
    without gradient hardly moves the others, but noise is enlarged as much as signal.

    With `correction=MarsCorrection(exact=True)` it calls `grad_fn` itself: `reduce_variance` says how to clip and how
    to accumulate gradients then.

    Args:
        learning_rate: a positive number or a schedule.
        b1: decay of the momentum, and of the correction, in [0, 1); default 0.95.
        b2: decay of the second moment of corrected leaves that are no matrices, in [0, 1); default 0.99.
        eps: added to the root of their second moment, and to the norm of a matrix before it is orthogonalized, above 0;
            default 1e-8.
        weight_decay: strength of the decoupled decay of the corrected leaves, at least 0; default 0.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        gamma: strength of the correction, at least 0; a number or a schedule; default 0.025.
        corrected: the leaves that are corrected, given as `mask` is; None: matrices. True for all (the authors'
            `optimize_1d`): those that are no matrices then take Adam's preconditioner after the correction.
        weight_dimension_numbers: which axes of matrices are inputs and outputs, as Optax's Muon takes it: a tree with
            None for leaves that are no matrices, a function that makes it from the parameters, or one for all leaves of
            two axes or more. `flax_dimension_numbers` has those of Flax's layers. Other axes count matrices, each of
            which is clipped and orthogonalized by itself. By default leaves of exactly two axes are matrices.
        correction: what else shapes the correction, a `MarsCorrection`; default None, as the authors have it.
        others: the optimizer of all other parameters, taken as it is: with its own learning rate, decay and mask, in
            float32 at least; `optax.partition` makes one of several. None: AdamW at `learning_rate` with the authors'
            0.9, 0.95, epsilon 1e-8, and decay 0.1 under `mask`. Their GPT-2 configurations give these leaves half the
            rate of the matrices.
        trainable: tree of booleans, or a function that makes it from the parameters: the leaves that move. All by
            default. The others get updates of zero.
        orthogonalize: moves the singular values of stacked matrices, momenta over `1 - b1`, towards one. None:
            `optkit.linalg.newton_schulz` with five steps and `eps`, in float32 at least; the authors compute it with
            `dtype=jnp.bfloat16`.
        mu_dtype: dtype of the momenta; default the parameters', but at least float32.

    Returns:
        An optimizer; its state is two numbers an entry of a corrected matrix, one without clipping, and two for each
        other parameter (three where it is corrected).

    Raises:
        ValueError: if a hyperparameter is out of its range; from `init`, if no leaf is corrected although one has two
            axes or more, or if by default a leaf of two axes or more is called `bias` or `scale`.
        TypeError: if a static argument is an array, or one of another type.

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
    refuse_arrays(
        corrected=corrected,
        weight_dimension_numbers=weight_dimension_numbers,
        mu_dtype=mu_dtype,
    )
    check_range("weight_decay", weight_decay, 0.0)
    orthogonal = functools.partial(newton_schulz, eps=eps) if orthogonalize is None else orthogonalize
    shape = checked(correction)
    one_buffer = fits_one_buffer(gamma, shape)

    def direction(m):
        stretch = max(1.0, m.shape[-2] / m.shape[-1]) ** 0.5
        # The authors' epsilon counts beside the norm of the momentum over 1 - b1.
        return stretch * orthogonal(m / (1 - b1))

    def preconditioner(b1, b2):
        return adam(b1, b2, eps, amsgrad=False, mu_dtype=mu_dtype)

    def transforms(numbers, mask):
        matrices = optax.chain(
            momentum(b1, gamma, one_buffer=one_buffer, mu_dtype=mu_dtype),  # Alg. 4, m_t
            scale_by_matrices(direction, numbers),  # Alg. 4, U_t V_t^T
        )
        return {
            "matrix": step("mars_shampoo", matrices, learning_rate, weight_decay, mask),
            "vector": step("mars_shampoo", preconditioner(b1, b2), learning_rate, weight_decay, mask),
        }

    return corrected_chain(
        "mars_shampoo",
        gamma,
        b1,
        shape,
        lambda tree: kinds_of_corrected("mars_shampoo", tree, corrected, weight_dimension_numbers, matrices_apart=True),
        transforms,
        others,
        lambda mask: step("mars_shampoo", preconditioner(0.9, 0.95), learning_rate, 0.1, mask),
        corrected=("vector",) if one_buffer else ("matrix", "vector"),
        mask=mask,
        trainable=trainable,
    )


METHODS = (
    Method(
        name="mars_shampoo",
        factory=mars_shampoo,
        kind="optimizer",
        summary="Orthogonalizes the momentum of MARS-corrected gradients; AdamW for other parameters.",
        paper=MARS,
        also_known_as=("MARS-Shampoo",),
        example={"learning_rate": 1e-2, "weight_decay": 0.0},
        grid=1e-2,
        golden="mars",
    ),
)
