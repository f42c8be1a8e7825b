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

from optkit.core.checks import check_range
from optkit.core.matrix_view import from_matrices, require_views, to_matrices
from optkit.core.newton_schulz import polar_express
from optkit.core.precision import widen
from optkit.core.stacking import map_equal_shapes, unzip
from optkit.orthonormalization.other_parameters import with_other_parameters
from optkit.orthonormalization.scales import SCALES, Scale, check_scale
from optkit.orthonormalization.selection import orthogonalize_largest

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
    fraction: float = 0.25,
    ef_decay: jax.typing.ArrayLike = 0.95,
    *,
    select: Select | None = None,
    orthogonalize: Callable[[jax.Array], jax.Array] = polar_express,
    scale: Scale | None = "spectral",
    weight_dimension_numbers: Any | None = None,
    mu_dtype: Any | None = None,
) -> optax.GradientTransformation:
    """Replaces the gradient of a matrix by its momentum's largest rows or columns, orthogonalized, and zeros.

    What is selected shrinks in the momentum, all else stays whole (error feedback) until it is the largest itself. Much
    less is multiplied than in `scale_by_muon`, and of sharded matrices only what is selected is sent. With `fraction=1`
    it is Muon without Nesterov. Leaves of one shape are computed in a stack: on automatic mesh axes, where JAX does not
    say how they are sharded, shard them alike.

    Args:
        fraction: share of the rows or columns that is selected, in (0, 1]; default 0.25. Rounded up.
        ef_decay: how much stays in the momentum of what is selected, in [0, 1]; default 0.95.
        select: `"rows"`, that is outputs, or `"columns"`, inputs. By default those of which a matrix has fewer, rows
            where it is square, however it is sharded; the authors' code takes the sharded side where there is one.
        orthogonalize: of stacked matrices; default `polar_express`.
        scale: `"spectral"` (default) multiplies by `sqrt(fan_out / fan_in)`, `"rms"` by
            `0.2 * sqrt(max(fan_out, fan_in))`, which has the size of AdamW's updates, `"keller"` by
            `sqrt(max(1, fan_out / fan_in))`; None by nothing.
        weight_dimension_numbers: which axes are inputs and outputs, as Optax's Muon takes it. By default a leaf is the
            kernel of a dense layer in Flax, inputs first; for weights stored as PyTorch does it is
            `optax.contrib.MuonDimensionNumbers(reduction_axis=-1, output_axis=-2)`; `flax_dimension_numbers` has those
            of Flax's layers. Other axes count matrices.
        mu_dtype: dtype of the momentum, that of the parameters by default.

    Returns:
        A transformation with a `ScaleByDion2State`. All leaves must be matrices, but leaves without entries pass.

    Raises:
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
    check_range("fraction", fraction, 0.0, 1.0, low_open=True)
    check_range("ef_decay", ef_decay, 0.0, 1.0)
    check_scale(scale)
    if select not in {"rows", "columns", None}:
        raise ValueError(f"select must be 'rows', 'columns' or None, got {select!r}")
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
    fraction: float = 0.25,
    ef_decay: jax.typing.ArrayLike = 0.95,
    weight_decay: float | jax.Array = 0.01,
    mask: Any | None = None,
    *,
    labels: Any | None = None,
    select: Select | None = None,
    orthogonalize: Callable[[jax.Array], jax.Array] = polar_express,
    scale: Scale | None = "spectral",
    weight_dimension_numbers: Any | None = None,
    adamw_learning_rate: optax.ScalarOrSchedule | None = None,
    adamw_b1: jax.typing.ArrayLike = 0.9,
    adamw_b2: jax.typing.ArrayLike = 0.95,
    adamw_eps: jax.typing.ArrayLike = 1e-8,
    adamw_weight_decay: float | jax.Array = 0.0,
    lion_learning_rate: optax.ScalarOrSchedule | None = None,
    lion_b1: jax.typing.ArrayLike = 0.9,
    lion_b2: jax.typing.ArrayLike = 0.95,
    lion_weight_decay: float | jax.Array = 0.0,
    mu_dtype: Any | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Dion2 on hidden matrices, AdamW or Lion on all other parameters.

    A step moves the rows or columns whose momentum is largest and orthogonalizes only these; all others merely decay.
    Do not take it for embeddings, whose rows are seldom touched, nor for the last layer: name these in `labels`. One
    NaN gradient stays in the momentum for ever: see `optax.apply_if_finite`.

    Args:
        learning_rate: a positive number or a schedule; 0.01 to 0.02 for networks.
        fraction: share of the rows or columns that is selected, in (0, 1]; default 0.25.
        ef_decay: how much stays in the momentum of what is selected, in [0, 1]; default 0.95.
        weight_decay: strength of the decoupled decay of Dion2's matrices, at least 0; default 0.01.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        labels: tree of words, a prefix of the parameters, or a function that makes it from them: each leaf's
            optimizer, "dion2", "adamw" or "lion". By default leaves of two axes, or those that have
            `weight_dimension_numbers`, have "dion2" and all others "adamw".
        select: `"rows"`, `"columns"`, or by default those of which a matrix has fewer, see `scale_by_dion2`.
        orthogonalize: of stacked matrices; default `polar_express`.
        scale: `"spectral"` (default), `"rms"`, `"keller"` or None, see `scale_by_dion2`.
        weight_dimension_numbers: which axes of matrices are inputs and outputs, see `scale_by_dion2`; with None for
            leaves that are no matrices. `flax_dimension_numbers` has those of Flax's layers.
        adamw_learning_rate: AdamW's; default `learning_rate`.
        adamw_b1: decay of AdamW's first moment, in [0, 1); default 0.9.
        adamw_b2: decay of AdamW's second moment, in [0, 1); default 0.95.
        adamw_eps: AdamW's, at least 0; default 1e-8.
        adamw_weight_decay: strength of AdamW's decoupled decay, at least 0; default 0.
        lion_learning_rate: Lion's; default `learning_rate`.
        lion_b1: weight of Lion's momentum in its direction, in [0, 1]; default 0.9.
        lion_b2: decay of Lion's momentum, in [0, 1]; default 0.95.
        lion_weight_decay: strength of Lion's decoupled decay, at least 0; default 0.
        mu_dtype: dtype of the momenta; default the parameters', but at least float32.

    Returns:
        An optimizer; its state is one number an entry of a matrix, one for each parameter of Lion's and two for each of
        AdamW's.

    Raises:
        ValueError: if a hyperparameter is out of its range, or a leaf labelled "dion2" is no matrix.

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
    check_range("weight_decay", weight_decay, 0.0)
    matrices = optax.chain(
        scale_by_dion2(
            fraction,
            ef_decay,
            select=select,
            orthogonalize=orthogonalize,
            scale=scale,
            weight_dimension_numbers=weight_dimension_numbers,
            mu_dtype=mu_dtype,
        ),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
    return with_other_parameters(
        "dion2",
        matrices,
        labels=labels,
        weight_dimension_numbers=weight_dimension_numbers,
        mask=mask,
        adamw_learning_rate=learning_rate if adamw_learning_rate is None else adamw_learning_rate,
        adamw_b1=adamw_b1,
        adamw_b2=adamw_b2,
        adamw_eps=adamw_eps,
        adamw_weight_decay=adamw_weight_decay,
        lion_learning_rate=learning_rate if lion_learning_rate is None else lion_learning_rate,
        lion_b1=lion_b1,
        lion_b2=lion_b2,
        lion_weight_decay=lion_weight_decay,
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
