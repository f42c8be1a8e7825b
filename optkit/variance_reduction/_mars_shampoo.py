"""MARS-Shampoo: orthogonalizes the momentum of corrected gradients of matrices; AdamW on all other parameters.

Yuan, Liu, Wu, Zhou, Gu, "MARS: Unleashing the Power of Variance Reduction for Training Large Models", 2024,
arXiv:2411.10438. Algorithm 4. The authors' code replaces its factorization by five Newton-Schulz iterations in
bfloat16; here they run in float32 unless `orthogonalize` differs. The module `_mars` lists the other differences
between the code and the paper.
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

    The update rule for matrices, where c is the clipped gradient from `reduce_variance`, and rows and columns are
    counted in the order in which the leaf stores them::

        m = b1 * m + (1 - b1) * c
        u = sqrt(max(1, rows / columns)) * orthogonalize(m / (1 - b1))
        x = x - lr * (u + wd * x)

    Every singular value of u is therefore about one, or about the root of rows over columns if there are more rows.

    Use it for the weight matrices of hidden layers. Avoid it for matrices whose rows seldom have a gradient, such as
    embeddings, because orthogonalization enlarges noise as much as signal; leave them out of `corrected`. It runs five
    Newton-Schulz iterations per matrix in each step, as Muon does.

    It keeps two numbers per entry of a matrix. It keeps only one without clipping (`MarsCorrection(max_norm=None)`), in
    the approximate form, and with a `gamma` that is a Python number; see `scale_by_mars_momentum`.

    With `correction=MarsCorrection(exact=True)` it calls `grad_fn` itself; see `reduce_variance` for how to clip and
    how to accumulate gradients in that case.

    Args:
        learning_rate: The learning rate, a positive number or a schedule.
        b1: Decay rate of the momentum, in [0, 1). Default: 0.95. The correction uses it too.
        b2: Decay rate of the second moment, in [0, 1). Default: 0.99. It is used for corrected leaves that are not
            matrices.
        eps: Added to the square root of the second moment, and to the norm of a matrix before it is orthogonalized,
            above 0. Default: 1e-8.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0. It acts on the corrected leaves.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        gamma: See `reduce_variance`. Default: 0.025.
        corrected: Which leaves are corrected: a tree of booleans, or a function that makes it from the parameters, or
            True for all leaves (the authors' `optimize_1d`). Corrected leaves that are not matrices get Adam's update.
            Default: the matrices.
        weight_dimension_numbers: Which axes of each matrix are inputs and which are outputs, as in
            `optax.contrib.muon`. A tree with None for leaves that are not matrices, a function that makes it from the
            parameters, or one `MuonDimensionNumbers` for all leaves with two or more axes. `flax_dimension_numbers`
            makes it for Flax models. Axes that are neither count separate matrices, each of which is clipped and
            orthogonalized by itself. Default: leaves with exactly two axes are matrices.
        correction: The other options of the correction, a `MarsCorrection`. Default: `MarsCorrection()`, the authors'
            choices.
        others: The optimizer of all other parameters. It is used as it is, with its own learning rate, decay and mask,
            in float32 at least; `optax.partition` combines several optimizers into one. Default: AdamW with
            `learning_rate`, the authors' decay rates 0.9 and 0.95, `eps`, and weight decay 0.1 for the leaves of
            `mask`. The authors' GPT-2 configurations give these leaves half the learning rate of the matrices.
        trainable: Which leaves are trained: a tree of booleans, or a function that makes it from the parameters.
            Default: all. The other leaves get updates of zero.
        orthogonalize: A function that moves the singular values of stacked matrices towards one. It is called with the
            momentum over `1 - b1`. Default: `optkit.linalg.newton_schulz` with five steps and `eps`, in float32 at
            least; the authors compute it with `dtype=jnp.bfloat16`.
        mu_dtype: Dtype of the momentum. Default: that of the parameters, but at least float32. It is also the dtype of
            Adam's first moment.

    Returns:
        An optimizer. Its state holds two numbers per entry of a corrected matrix (one without clipping, see above) and
        two per other parameter (three if it is corrected).

    Raises:
        ValueError: If a hyperparameter is out of its range. From `init`, if no leaf is corrected although a leaf has
            two or more axes, or if by default a leaf with two or more axes is called `bias` or `scale`.
        TypeError: If a static argument is an array or has a wrong type.

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
        arXiv:2411.10438
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
        # The authors add epsilon to the norm of the momentum over 1 - b1.
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
        tunable={"gamma": (0.001, 0.1, "log")},
        golden="mars",
    ),
)
