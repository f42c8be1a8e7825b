"""NorDion2, also called Dion3: Dion2 on rows, whose updates NorMuon's second moments make equal in size.

The rule is that of the code of Dion2's authors (microsoft/dion, `NorDion2` and `Dion3`). It has no paper of its own.
Dion2 is Ahn, Amsel, Langford, "Dion2: A Simple Method to Shrink Matrix in Muon", 2025, arXiv:2512.16928.
NorMuon is Li, Liu, Liang, Chen, Zhao, "NorMuon: Making Muon more efficient and scalable", 2025, arXiv:2510.05491.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optkit.core.checks import check_option, check_range
from optkit.core.injection import refuse_arrays
from optkit.core.linalg.matrix_view import from_matrices, require_views, to_matrices
from optkit.core.linalg.newton_schulz import polar_express
from optkit.core.precision import widen
from optkit.core.stacking import map_equal_shapes, unzip
from optkit.core.types import DTypeLike, Mask
from optkit.method import Method
from optkit.orthonormalization._dion2 import DION2
from optkit.orthonormalization._largest_rows import orthogonalize_largest
from optkit.orthonormalization._matrix_optimizer import matrix_optimizer
from optkit.orthonormalization._row_normalization import (
    columns_axis,
    divide_by_row_sizes,
    frobenius_norm,
    with_norm,
    zero_second_moments,
)
from optkit.orthonormalization._update_scale import SCALES, Scale

__all__ = ["nordion2", "scale_by_nordion2"]


class ScaleByNordion2State(NamedTuple):
    """State of `scale_by_nordion2`.

    Attributes:
        momentum: Sum of the gradients, in which rows shrink when they are selected; shaped and sharded like the
            parameters, in `mu_dtype`. Equal on all workers.
        second_moment: Averages of the mean squares of an update's rows over the steps that selected them: one number
            per row, after the axes over separate matrices, in at least float32; None for leaves without entries. Equal
            on all workers.
    """

    momentum: optax.Updates
    second_moment: Any


class _Result(NamedTuple):
    direction: jax.Array
    momentum: jax.Array
    second_moment: jax.Array


def scale_by_nordion2(
    fraction: float | None = None,
    ef_decay: jax.typing.ArrayLike = 0.95,
    b2: jax.typing.ArrayLike = 0.95,
    *,
    orthogonalize: Callable[[jax.Array], jax.Array] | None = None,
    eps: jax.typing.ArrayLike = 1e-8,
    scale: Scale | None = "spectral",
    weight_dimension_numbers: Any | None = None,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformation:
    """Replaces the gradient of a matrix by its momentum's largest rows, orthogonalized and made equal in size.

    The update rule, where S are the `fraction` of the rows of B with the largest sums of absolute values::

        B = m + g
        m = ef_decay * B in S, and B elsewhere
        o = orthogonalize(B in S) in S, and 0 elsewhere
        v = b2 * v + (1 - b2) * mean over each row of o^2 in S, and v elsewhere
        w = o / (sqrt(v) + eps)
        u = sqrt(fan_out / fan_in) * w * |o| / max(|w|, eps)

    `|.|` is the Frobenius norm, and v has one number per row. It selects among the rows, that is the neurons, as in
    `scale_by_dion2` with `select="rows"`, however many columns there are. The selected rows are divided by their usual
    size as in `scale_by_normuon`.

    Use it for large or sharded matrices in place of `scale_by_normuon`: it multiplies much less. Its price is one
    number per entry and one per row. Avoid it when full steps are affordable, because only a share of the rows moves in
    each step.

    Args:
        fraction: Share of the rows that is selected, in (0, 1], rounded up. Default: 0.25.
        ef_decay: Share of the selected rows that stays in the momentum, in [0, 1]. Default: 0.95.
        b2: Decay rate of the second moment, in [0, 1). Default: 0.95. There is one second moment per row, whose bias is
            not corrected.
        orthogonalize: A function that moves the singular values of stacked matrices towards 1. Default:
            `polar_express`.
        eps: Added to the square root of the second moment, above 0. Default: 1e-8. It is also the smallest norm that is
            divided by.
        scale: `"spectral"`, `"rms"`, `"jordan"` or None, see `scale_by_muon`. Default: `"spectral"`.
        weight_dimension_numbers: Which axes of each matrix are inputs and which are outputs, as in
            `optax.contrib.muon`. All other axes of a leaf count matrices. Default: see `scale_by_muon`.
        mu_dtype: Dtype of the momentum. Default: that of the parameters.

    Returns:
        A transformation with a `ScaleByNordion2State`. All leaves must be matrices, except that leaves without entries
        pass unchanged.

    Raises:
        TypeError: If an argument that cannot be traced is an array.
        ValueError: If a hyperparameter is out of its range, or a leaf is not a matrix.

    Example:
        >>> import optkit
        >>> tx = optkit.scale_by_nordion2(fraction=0.5)
        >>> params = jnp.zeros((2, 2))
        >>> updates, state = tx.update(jnp.array([[1.0, 0.0], [0.0, 3.0]]), tx.init(params), params)
        >>> jnp.diag(updates).round(2), state.second_moment.round(2)
        (Array([0. , 0.9], dtype=float32), Array([0.  , 0.02], dtype=float32))

    Reference:
        arXiv:2512.16928
        arXiv:2510.05491
    """
    refuse_arrays(fraction=fraction, weight_dimension_numbers=weight_dimension_numbers, mu_dtype=mu_dtype)
    fraction = 0.25 if fraction is None else fraction
    orthogonalize = polar_express if orthogonalize is None else orthogonalize
    check_range("fraction", fraction, 0.0, 1.0, low_open=True)
    check_range("ef_decay", ef_decay, 0.0, 1.0)
    check_range("b2", b2, 0.0, 1.0, high_open=True)
    check_range("eps", eps, 0.0, low_open=True)
    check_option("scale", scale, Scale, or_none=True)
    step = functools.partial(
        _step, fraction=fraction, ef_decay=ef_decay, b2=b2, orthogonalize=orthogonalize, eps=eps, scale=scale
    )

    def init_fn(params):
        views = require_views(params, weight_dimension_numbers, "scale_by_nordion2")
        return ScaleByNordion2State(
            momentum=optax.tree.zeros_like(params, dtype=mu_dtype),
            second_moment=jax.tree.map(zero_second_moments, params, views),
        )

    def update_fn(updates, state, params=None):
        del params
        views = require_views(updates, weight_dimension_numbers, "scale_by_nordion2")

        gradients = jax.tree.map(to_matrices, updates, views)
        momenta = jax.tree.map(to_matrices, state.momentum, views)
        results = map_equal_shapes(step, gradients, momenta, state.second_moment, jax.tree.map(columns_axis, views))
        directions, momenta, second_moments = unzip(gradients, results, 3)
        new_state = ScaleByNordion2State(
            momentum=jax.tree.map(from_matrices, state.momentum, views, momenta),
            second_moment=optax.tree.cast_like(second_moments, state.second_moment),
        )
        return jax.tree.map(from_matrices, updates, views, directions), new_state

    return optax.GradientTransformation(init_fn, update_fn)


def nordion2(
    learning_rate: optax.ScalarOrSchedule,
    fraction: float | None = None,
    ef_decay: jax.typing.ArrayLike = 0.95,
    b2: jax.typing.ArrayLike = 0.95,
    weight_decay: float | jax.Array = 0.01,
    mask: Mask | None = None,
    *,
    labels: Any | None = None,
    others: optax.GradientTransformation | None = None,
    orthogonalize: Callable[[jax.Array], jax.Array] | None = None,
    scale: Scale | None = "spectral",
    weight_dimension_numbers: Any | None = None,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """NorDion2 (Dion3) on hidden matrices, and AdamW (or `others`) on all other parameters.

    The update rule for a matrix, with u from `scale_by_nordion2`::

        x = x - lr * (u + wd * x)

    A step orthogonalizes and moves only the rows (neurons) whose momentum is largest, in the long run by equal sizes;
    all others only decay.

    Use it for large or sharded models, where NorMuon costs too much. Avoid it for embeddings, because their rows are
    seldom updated, and for the last layer: label these "other" in `labels`. One gradient with NaN stays in the momentum
    for ever: see `optax.apply_if_finite`.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. For networks 0.01 to 0.02.
        fraction: See `scale_by_nordion2`. Default: 0.25.
        ef_decay: See `scale_by_nordion2`. Default: 0.95.
        b2: See `scale_by_nordion2`. Default: 0.95.
        weight_decay: Strength of the decoupled weight decay, at least 0. Default: 0.01. Only the matrices decay.
        mask: Which leaves decay: a tree of booleans, or a function that makes it from the parameters. Default: all.
        labels: Which leaves are matrices: a tree of "matrix" and "other", or a function that makes it from the
            parameters. The tree may be a prefix of the parameters. A leaf with more than two axes that is labelled
            "matrix" and has no `weight_dimension_numbers` is a stack of matrices along its leading axes. Default: the
            leaves with exactly two axes, or those that have `weight_dimension_numbers`.
        others: The optimizer of all other parameters. It keeps its own learning rate, weight decay and mask, and runs
            in at least float32; `optax.partition` makes one of several. Default: AdamW with `learning_rate`, decay
            rates 0.9 and 0.95, epsilon 1e-8 and no weight decay, as in the authors' code. Their configurations use
            AdamW or Lion at the same learning rate, but for the last layer they divide it by the square root of its
            number of inputs.
        orthogonalize: See `scale_by_nordion2`. Default: `polar_express`.
        scale: See `scale_by_nordion2`. Default: `"spectral"`.
        weight_dimension_numbers: Which axes of each matrix are inputs and which are outputs, as in
            `optax.contrib.muon`. A tree with None for leaves that are not matrices, a function that makes it from the
            parameters, or one value for all leaves with two axes or more. `flax_dimension_numbers` makes it for Flax
            models, and convolutions need it. Default: see `scale_by_muon`.
        mu_dtype: Dtype of the momentum. Default: that of the parameters, but at least float32. It is also that of the
            first moment of the default AdamW.

    Returns:
        An optimizer. Its state is one number per entry and one per row of a matrix, and the state of `others`; AdamW's
        is two numbers per parameter.

    Raises:
        TypeError: If an argument that cannot be traced is an array, or `others` is not a transformation.
        ValueError: If a hyperparameter is out of its range. From `init`: if a leaf labelled "matrix" cannot be a
            matrix; if labels or dimension numbers are given and no leaf is a matrix; or if neither is given and a leaf
            called `bias` or `scale` has two axes or more.

    Example:
        >>> import optkit
        >>> tx = optkit.nordion2(1.0, fraction=0.5, weight_decay=0.0)
        >>> params = {"kernel": jnp.array([[1.0, 0.0], [0.0, 3.0]]), "bias": jnp.array([2.0])}
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> jnp.diag(updates["kernel"]).round(2), updates["bias"].round(2)
        (Array([-0. , -0.9], dtype=float32), Array([-1.], dtype=float32))

    Reference:
        arXiv:2512.16928
        arXiv:2510.05491
    """

    def direction(numbers):
        return scale_by_nordion2(
            fraction,
            ef_decay,
            b2,
            orthogonalize=orthogonalize,
            scale=scale,
            weight_dimension_numbers=numbers,
            mu_dtype=mu_dtype,
        )

    return matrix_optimizer(
        "nordion2",
        learning_rate,
        direction,
        labels=labels,
        others=others,
        weight_decay=weight_decay,
        mask=mask,
        weight_dimension_numbers=weight_dimension_numbers,
        mu_dtype=mu_dtype,
    )


def _step(
    gradient: jax.Array,
    momentum: jax.Array,
    second_moment: jax.Array,
    axis: int,
    *,
    fraction: float,
    ef_decay: jax.typing.ArrayLike,
    b2: jax.typing.ArrayLike,
    orthogonalize: Callable[[jax.Array], jax.Array],
    eps: jax.typing.ArrayLike,
    scale: Scale | None,
) -> _Result:
    """One step on stacked matrices, whose columns are counted by `axis`."""
    gradient, momentum = widen((gradient, momentum))
    buffer = momentum + gradient
    rows, columns = buffer.shape[-3 - axis], buffer.shape[axis]
    orthogonal, selected = orthogonalize_largest(buffer, -3 - axis, fraction, orthogonalize)
    even, second_moment = divide_by_row_sizes(orthogonal, second_moment, axis, selected, b2=b2, eps=eps)
    direction = with_norm(even, SCALES[scale](rows, columns) * frobenius_norm(orthogonal), eps)
    new_momentum = jnp.where(selected, ef_decay * buffer, buffer)  # error feedback
    return _Result(direction, new_momentum, second_moment)


METHODS = (
    Method(
        name="nordion2",
        factory=nordion2,
        kind="optimizer",
        summary="Dion2 on rows, which get equal sizes as in NorMuon; AdamW on other parameters.",
        paper=DION2,
        also_known_as=("Dion3",),
        parts=(scale_by_nordion2,),
        example={"learning_rate": 1e-2, "weight_decay": 0.0},
        grid=1e-2,
    ),
)
