"""Dion2: Muon on the largest rows or columns of the momentum; the rest is kept for later steps.

Ahn, Amsel, Langford, "Dion2: A Simple Method to Shrink Matrix in Muon", 2025, arXiv:2512.16928. The rule is that of the
authors' code (microsoft/dion), which multiplies by `sqrt(fan_out / fan_in)` of the whole matrix. In that code each
device may select among the rows that it has; here the largest rows of the whole matrix are selected, however it is
sharded.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

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
from optkit.method import Method, Paper
from optkit.orthonormalization._largest_rows import orthogonalize_largest
from optkit.orthonormalization._matrix_optimizer import matrix_optimizer
from optkit.orthonormalization._update_scale import SCALES, Scale

__all__ = ["dion2", "scale_by_dion2"]

Select = Literal["rows", "columns"]


class ScaleByDion2State(NamedTuple):
    """State of `scale_by_dion2`.

    Attributes:
        momentum: Sum of the gradients, in which rows or columns shrink when they are selected; shaped and sharded like
            the parameters, in `mu_dtype`. Equal on all workers.
    """

    momentum: optax.Updates


class _Result(NamedTuple):
    direction: jax.Array
    momentum: jax.Array


def scale_by_dion2(
    fraction: float | None = None,
    ef_decay: jax.typing.ArrayLike = 0.95,
    *,
    select: Select | None = None,
    orthogonalize: Callable[[jax.Array], jax.Array] | None = None,
    scale: Scale | None = "spectral",
    weight_dimension_numbers: Any | None = None,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformation:
    """Replaces the gradient of a matrix by the largest rows or columns of its momentum, orthogonalized.

    The update rule, where S are the `fraction` of the rows or columns of B with the largest sums of absolute values::

        B = m + g
        m = ef_decay * B in S, and B elsewhere
        u = sqrt(fan_out / fan_in) * orthogonalize(B in S) in S, and 0 elsewhere

    What is not selected stays whole in the momentum (error feedback) until it is largest itself. Leaves of one shape
    are computed in a stack. On automatic mesh axes, where JAX does not say how they are sharded, shard them alike.

    Use it for large or sharded matrices: it multiplies much less than `scale_by_muon`, and of sharded matrices only
    what is selected is sent. Its price is one number per entry. Avoid it when full steps are affordable: with
    `fraction=1` it is Muon without Nesterov.

    Args:
        fraction: Share of the rows or columns that is selected, in (0, 1], rounded up. Default: 0.25.
        ef_decay: Share of what is selected that stays in the momentum, in [0, 1]. Default: 0.95.
        select: Whether `"rows"`, that is outputs, or `"columns"`, that is inputs, are selected. The authors' code takes
            the sharded side if there is one. Default: the side with fewer of them, and rows if the matrix is square,
            however it is sharded.
        orthogonalize: A function that moves the singular values of stacked matrices towards 1. Default:
            `polar_express`.
        scale: `"spectral"`, `"rms"`, `"jordan"` or None, see `scale_by_muon`. Default: `"spectral"`.
        weight_dimension_numbers: Which axes of each matrix are inputs and which are outputs, as in
            `optax.contrib.muon`. All other axes of a leaf count matrices. Default: see `scale_by_muon`.
        mu_dtype: Dtype of the momentum. Default: that of the parameters.

    Returns:
        A transformation with a `ScaleByDion2State`. All leaves must be matrices, except that leaves without entries
        pass unchanged.

    Raises:
        TypeError: If an argument that cannot be traced is an array.
        ValueError: If a hyperparameter is out of its range, or a leaf is not a matrix.

    Example:
        >>> import optkit
        >>> tx = optkit.scale_by_dion2(fraction=0.5, select="rows")
        >>> params = jnp.zeros((2, 2))
        >>> updates, state = tx.update(jnp.array([[1.0, 0.0], [0.0, 3.0]]), tx.init(params), params)
        >>> jnp.diag(updates).round(2), jnp.diag(state.momentum).round(2)
        (Array([0. , 0.9], dtype=float32), Array([1.  , 2.85], dtype=float32))

    Reference:
        arXiv:2512.16928
    """
    refuse_arrays(fraction=fraction, weight_dimension_numbers=weight_dimension_numbers, mu_dtype=mu_dtype)
    fraction = 0.25 if fraction is None else fraction
    orthogonalize = polar_express if orthogonalize is None else orthogonalize
    check_range("fraction", fraction, 0.0, 1.0, low_open=True)
    check_range("ef_decay", ef_decay, 0.0, 1.0)
    check_option("scale", scale, Scale, or_none=True)
    check_option("select", select, Select, or_none=True)
    step = functools.partial(_step, fraction=fraction, ef_decay=ef_decay, orthogonalize=orthogonalize)

    def selected_axis(view):
        """Returns the axis of the result of `to_matrices` along which slices are selected."""
        rows = view.row_count <= view.column_count if select is None else select == "rows"
        return -2 if view.rows_first == rows else -1

    def init_fn(params):
        require_views(params, weight_dimension_numbers, "scale_by_dion2")
        return ScaleByDion2State(momentum=optax.tree.zeros_like(params, dtype=mu_dtype))

    def update_fn(updates, state, params=None):
        del params
        views = require_views(updates, weight_dimension_numbers, "scale_by_dion2")

        def scaled(view, direction):
            return SCALES[scale](view.row_count, view.column_count) * direction

        gradients = jax.tree.map(to_matrices, updates, views)
        momenta = jax.tree.map(to_matrices, state.momentum, views)
        results = map_equal_shapes(step, gradients, momenta, jax.tree.map(selected_axis, views))
        directions, momenta = unzip(gradients, results, 2)
        directions = jax.tree.map(scaled, views, directions)
        new_state = ScaleByDion2State(momentum=jax.tree.map(from_matrices, state.momentum, views, momenta))
        return jax.tree.map(from_matrices, updates, views, directions), new_state

    return optax.GradientTransformation(init_fn, update_fn)


def dion2(
    learning_rate: optax.ScalarOrSchedule,
    fraction: float | None = None,
    ef_decay: jax.typing.ArrayLike = 0.95,
    weight_decay: float | jax.Array = 0.01,
    mask: Mask | None = None,
    *,
    labels: Any | None = None,
    others: optax.GradientTransformation | None = None,
    select: Select | None = None,
    orthogonalize: Callable[[jax.Array], jax.Array] | None = None,
    scale: Scale | None = "spectral",
    weight_dimension_numbers: Any | None = None,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Dion2 on hidden matrices, and AdamW (or `others`) on all other parameters.

    The update rule for a matrix, with u from `scale_by_dion2`::

        x = x - lr * (u + wd * x)

    A step orthogonalizes and moves only the rows or columns whose momentum is largest; all others only decay.

    Use it for large or sharded models, where Muon costs too much. Avoid it for embeddings, because their rows are
    seldom updated, and for the last layer: label these "other" in `labels`. One gradient with NaN stays in the momentum
    for ever: see `optax.apply_if_finite`.

    Args:
        learning_rate: The learning rate, a positive number or a schedule. For networks 0.01 to 0.02.
        fraction: See `scale_by_dion2`. Default: 0.25.
        ef_decay: See `scale_by_dion2`. Default: 0.95.
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
        select: See `scale_by_dion2`. Default: the side with fewer rows or columns.
        orthogonalize: See `scale_by_dion2`. Default: `polar_express`.
        scale: See `scale_by_dion2`. Default: `"spectral"`.
        weight_dimension_numbers: Which axes of each matrix are inputs and which are outputs, as in
            `optax.contrib.muon`. A tree with None for leaves that are not matrices, a function that makes it from the
            parameters, or one value for all leaves with two axes or more. `flax_dimension_numbers` makes it for Flax
            models, and convolutions need it. Default: see `scale_by_muon`.
        mu_dtype: Dtype of the momentum. Default: that of the parameters, but at least float32. It is also that of the
            first moment of the default AdamW.

    Returns:
        An optimizer. Its state is one number per entry of a matrix, and the state of `others`; AdamW's is two numbers
        per parameter.

    Raises:
        TypeError: If an argument that cannot be traced is an array, or `others` is not a transformation.
        ValueError: If a hyperparameter is out of its range. From `init`: if a leaf labelled "matrix" cannot be a
            matrix; if labels or dimension numbers are given and no leaf is a matrix; or if neither is given and a leaf
            called `bias` or `scale` has two axes or more.

    Example:
        >>> import optkit
        >>> tx = optkit.dion2(1.0, fraction=0.5, weight_decay=0.0)
        >>> params = {"kernel": jnp.array([[1.0, 0.0], [0.0, 3.0]]), "bias": jnp.array([2.0])}
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> jnp.diag(updates["kernel"]).round(2), updates["bias"].round(2)
        (Array([-0. , -0.9], dtype=float32), Array([-1.], dtype=float32))

    Reference:
        arXiv:2512.16928
    """

    def direction(numbers):
        return scale_by_dion2(
            fraction,
            ef_decay,
            select=select,
            orthogonalize=orthogonalize,
            scale=scale,
            weight_dimension_numbers=numbers,
            mu_dtype=mu_dtype,
        )

    return matrix_optimizer(
        "dion2",
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
    axis: int,
    *,
    fraction: float,
    ef_decay: jax.typing.ArrayLike,
    orthogonalize: Callable[[jax.Array], jax.Array],
) -> _Result:
    """One step on stacked matrices, of which slices along `axis` are selected."""
    gradient, momentum_before = widen((gradient, momentum))
    buffer = momentum_before + gradient
    direction, selected = orthogonalize_largest(buffer, axis, fraction, orthogonalize)
    return _Result(direction, jnp.where(selected, ef_decay * buffer, buffer))  # error feedback


DION2 = Paper("Dion2: A Simple Method to Shrink Matrix in Muon", "Ahn, Amsel, Langford", 2025, "2512.16928")

METHODS = (
    Method(
        name="dion2",
        factory=dion2,
        kind="optimizer",
        summary="Muon on the rows or columns whose momentum is largest; AdamW on other parameters.",
        paper=DION2,
        parts=(scale_by_dion2,),
        example={"learning_rate": 1e-2, "weight_decay": 0.0},
        grid=1e-2,
    ),
)
