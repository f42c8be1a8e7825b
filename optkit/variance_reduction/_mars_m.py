"""MARS-M: Muon on the corrected gradients of matrices, with the scaling of Moonlight.

Liu, Yuan, Gu, "MARS-M: When Variance Reduction Meets Matrices", 2025, arXiv:2510.21800. Algorithm 1. The rule is that
of the authors' code (AGI-Arena/MARS). It always clips the correction, whatever its option says, and AdamW for all other
parameters adds epsilon to the square root of the second moment before the bias correction. It differs from that code in
two points: Newton-Schulz runs in float32 unless `orthogonalize` differs, not in bfloat16; and if a leaf contains
several matrices, each is clipped by its own norm, not all together.
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

    The update rule for matrices, where c is the clipped gradient from `reduce_variance`::

        m = b1 * m + (1 - b1) * c
        u = 0.2 * sqrt(max(rows, columns)) * orthogonalize(m)
        x = x - lr * (u + wd * x)

    Unlike `optax.contrib.muon` it has neither Nesterov momentum nor bias correction. The factor on a matrix's update
    lets both kinds of leaves share AdamW's learning rate.

    Use it in place of Muon for the weight matrices of hidden layers. Avoid it for embeddings and the last layer, which
    by default are corrected as all matrices are: the authors leave them to AdamW, so leave them out of `corrected`. It
    runs five Newton-Schulz iterations per matrix in each step, as Muon does.

    It keeps two numbers per entry of a matrix. It keeps only one without clipping (`MarsCorrection(max_norm=None)`), in
    the approximate form, and with a `gamma` that is a Python number; see `scale_by_mars_momentum`.

    With `correction=MarsCorrection(exact=True)` it calls `grad_fn` itself; see `reduce_variance` for how to clip and
    how to accumulate gradients in that case.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. It is used for both kinds of leaves. The
            authors use 1e-3.
        b1: Decay rate of the momentum, in [0, 1). Default: 0.95. The correction uses it too.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0.1.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        gamma: See `reduce_variance`. Default: 0.025.
        corrected: Which leaves are corrected and orthogonalized: a tree of booleans, or a function that makes it from
            the parameters, or True for all leaves that are matrices. A chosen leaf without dimension numbers is a
            matrix in its last two axes, and its other axes count separate matrices. Default: the matrices.
        weight_dimension_numbers: Which axes of each matrix are inputs and which are outputs, as in
            `optax.contrib.muon`. A tree with None for leaves that are not matrices, a function that makes it from the
            parameters, or one `MuonDimensionNumbers` for all leaves with two or more axes. `flax_dimension_numbers`
            makes it for Flax models. Axes that are neither count separate matrices, each of which is clipped and
            orthogonalized by itself. Default: leaves with exactly two axes are matrices.
        correction: The other options of the correction, a `MarsCorrection`. Default: `MarsCorrection()`, the authors'
            choices.
        others: The optimizer of all other parameters. It is used as it is, with its own learning rate, decay and mask,
            in float32 at least; `optax.partition` combines several optimizers into one. Default: AdamW as in all
            configurations of the authors, with `learning_rate`, decay rates 0.9 and 0.95, epsilon 1e-8 (added to the
            square root of the second moment before the bias correction), and `weight_decay` for the leaves of `mask`.
        trainable: Which leaves are trained: a tree of booleans, or a function that makes it from the parameters.
            Default: all. The other leaves get updates of zero.
        orthogonalize: A function that moves the singular values of stacked matrices towards one. Default:
            `optkit.linalg.newton_schulz` with five steps, in float32 at least; the authors compute it with
            `dtype=jnp.bfloat16`.
        mu_dtype: Dtype of the momentum. Default: that of the parameters, but at least float32. It is also the dtype of
            AdamW's first moment.

    Returns:
        An optimizer. Its state holds two numbers per entry of a corrected leaf (one without clipping, see above) and
        two per other parameter.

    Raises:
        ValueError: If a hyperparameter is out of its range. From `init`, if no leaf is corrected although a leaf has
            two or more axes, or if by default a leaf with two or more axes is called `bias` or `scale`.
        TypeError: If a static argument is an array or has a wrong type.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, optkit
        >>> tx = optkit.mars_m(1.0, weight_decay=0.0)
        >>> params = {"kernel": jnp.array([[3.0, 0.0], [0.0, -2.0]])}
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> jnp.diag(updates["kernel"]).round(2)  # about 0.2 * sqrt(2)
        Array([-0.32,  0.19], dtype=float32)

    Reference:
        arXiv:2510.21800
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
        summary="Muon with Moonlight's scaling on MARS-corrected gradients; AdamW for other parameters.",
        paper=Paper("MARS-M: When Variance Reduction Meets Matrices", "Liu, Yuan, Gu", 2025, "2510.21800"),
        also_known_as=("MARS-M",),
        example={"learning_rate": 1e-2, "weight_decay": 0.0},
        grid=3e-3,
        tunable={"gamma": (0.001, 0.1, "log")},
    ),
)
