"""Dion2: Muon on the rows or columns of the momentum that are largest, whose rest is kept for later steps.

Ahn, Amsel, Langford, "Dion2: A Simple Method to Shrink Matrix in Muon", 2025, arXiv:2512.16928. The rule is that of the
authors' code (microsoft/dion), which multiplies by `sqrt(fan_out / fan_in)` of the whole matrix. There each device may
select among the rows that it has; here the largest are those of the whole matrix, however it is sharded.
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
        momentum: sum of the gradients, where rows or columns shrink when they are selected; shaped and sharded like the
            parameters, in `mu_dtype`. Equal on all workers.
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
    """Replaces the gradient of a matrix by its momentum's largest rows or columns, orthogonalized, and zeros.

    What is selected shrinks in the momentum, all else stays whole (error feedback) until it is the largest itself. Much
    less is multiplied than in `scale_by_muon`, and of sharded matrices only what is selected is sent. With `fraction=1`
    it is Muon without Nesterov. Leaves of one shape are computed in a stack: on automatic mesh axes, where JAX does not
    say how they are sharded, shard them alike.

    Args:
        fraction: share of the rows or columns that is selected, in (0, 1], rounded up. None: 0.25.
        ef_decay: how much stays in the momentum of what is selected, in [0, 1]; default 0.95.
        select: `"rows"`, that is outputs, or `"columns"`, inputs. By default those of which a matrix has fewer, rows
            where it is square, however it is sharded; the authors' code takes the sharded side where there is one.
        orthogonalize: moves the singular values of stacked matrices towards one. None: `polar_express`.
        scale: `"spectral"` (default), `"rms"`, `"jordan"` or None, as in `scale_by_muon`.
        weight_dimension_numbers: which axes are inputs and outputs, as in `scale_by_muon`.
        mu_dtype: dtype of the momentum, that of the parameters by default.

    Returns:
        A transformation with a `ScaleByDion2State`. All leaves must be matrices, but leaves without entries pass.

    Raises:
        TypeError: if an argument that cannot be traced is an array.
        ValueError: if a hyperparameter is out of its range, or a leaf is no matrix.

    Example:
        >>> import optkit
        >>> tx = optkit.scale_by_dion2(fraction=0.5, select="rows")
        >>> params = jnp.zeros((2, 2))
        >>> updates, state = tx.update(jnp.array([[1.0, 0.0], [0.0, 3.0]]), tx.init(params), params)
        >>> jnp.diag(updates).round(2), jnp.diag(state.momentum).round(2)
        (Array([0. , 0.9], dtype=float32), Array([1.  , 2.85], dtype=float32))

    Reference:
        Ahn, Amsel, Langford, "Dion2: A Simple Method to Shrink Matrix in Muon", 2025, arXiv:2512.16928.
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
        """The axis over what is selected in what `to_matrices` gives."""
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
    """Dion2 on hidden matrices, AdamW or what `others` is on all other parameters.

    A step moves the rows or columns whose momentum is largest and orthogonalizes only these; all others merely decay.
    Do not take it for embeddings, whose rows are seldom touched, nor for the last layer: name these in `labels`. One
    NaN gradient stays in the momentum for ever: see `optax.apply_if_finite`.

    Args:
        learning_rate: a positive number or a schedule; 0.01 to 0.02 for networks.
        fraction: share of the rows or columns that is selected, in (0, 1]. None: 0.25.
        ef_decay: how much stays in the momentum of what is selected, in [0, 1]; default 0.95.
        weight_decay: strength of the decoupled decay of Dion2's matrices, at least 0; default 0.01.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        labels: tree of the words "matrix" and "other", a prefix of the parameters, or a function that makes it from
            them. By default leaves of exactly two axes, or those that have `weight_dimension_numbers`, are matrices. A
            leaf of more axes that is labelled "matrix" and has no numbers counts its leading axes as separate matrices.
        others: the optimizer of all other parameters, taken as it is: with its own learning rate, decay and mask, in
            float32 at least; `optax.partition` makes one of several. None: AdamW at `learning_rate` with the authors'
            0.9, 0.95 and epsilon 1e-8, without decay; their configurations take AdamW or Lion at the same rate, but
            that over the root of the inputs for the last layer.
        select: `"rows"`, `"columns"`, or by default those of which a matrix has fewer, see `scale_by_dion2`.
        orthogonalize: moves the singular values of stacked matrices towards one. None: `polar_express`.
        scale: `"spectral"` (default), `"rms"`, `"jordan"` or None, see `scale_by_dion2`.
        weight_dimension_numbers: which axes of matrices are inputs and outputs, see `scale_by_dion2`; a tree with None
            for leaves that are no matrices, a function that makes it from the parameters, or one for all leaves of two
            axes or more. `flax_dimension_numbers` has those of Flax's layers; convolutions need them.
        mu_dtype: dtype of the momenta; default the parameters', but at least float32.

    Returns:
        An optimizer; its state is one number an entry of a matrix, and that of `others`: AdamW's is two for each of its
        parameters.

    Raises:
        TypeError: if an argument that cannot be traced is an array, or `others` is no transformation.
        ValueError: if a hyperparameter is out of its range; from `init`, if a leaf labelled "matrix" cannot be one, if
            numbers or labels are given and no leaf is a matrix, or if neither is given and a leaf called `bias` or
            `scale` has two axes or more.

    Example:
        >>> import optkit
        >>> tx = optkit.dion2(1.0, fraction=0.5, weight_decay=0.0)
        >>> params = {"kernel": jnp.array([[1.0, 0.0], [0.0, 3.0]]), "bias": jnp.array([2.0])}
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> jnp.diag(updates["kernel"]).round(2), updates["bias"].round(2)
        (Array([-0. , -0.9], dtype=float32), Array([-1.], dtype=float32))

    Reference:
        Ahn, Amsel, Langford, "Dion2: A Simple Method to Shrink Matrix in Muon", 2025, arXiv:2512.16928.
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
    """One step of stacked matrices, of which slices along an axis are selected."""
    gradient, momentum_before = widen((gradient, momentum))
    buffer = momentum_before + gradient
    direction, selected = orthogonalize_largest(buffer, axis, fraction, orthogonalize)
    return _Result(direction, jnp.where(selected, ef_decay * buffer, buffer))  # the error feedback


DION2 = Paper("Dion2: A Simple Method to Shrink Matrix in Muon", "Ahn, Amsel, Langford", 2025, "2512.16928")

METHODS = (
    Method(
        name="dion2",
        factory=dion2,
        kind="optimizer",
        summary="Muon on the rows or columns whose momentum is largest, the rest kept; AdamW on other parameters.",
        paper=DION2,
        parts=(scale_by_dion2,),
        example={"learning_rate": 1e-2, "weight_decay": 0.0},
        grid=1e-2,
    ),
)
