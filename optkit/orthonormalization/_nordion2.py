"""NorDion2, also called Dion3: Dion2 on rows, whose updates NorMuon's second moments make equal in size.

The rule is that of the authors' code of Dion2 (microsoft/dion, `NorDion2` and `Dion3`); it has no paper of its own.
Dion2 is Ahn, Amsel, Langford, "Dion2: A Simple Method to Shrink Matrix in Muon", 2025, arXiv:2512.16928;
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
        momentum: sum of the gradients, where rows shrink when they are selected; shaped and sharded like the
            parameters, in `mu_dtype`. Equal on all workers.
        second_moment: averages of the mean squares of an update's rows over the steps that selected them, as many as a
            matrix has rows, after the axes over separate matrices, in float32 at least; None for leaves without
            entries. Equal on all workers.
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
    """Replaces the gradient of a matrix by its momentum's largest rows, orthogonalized and evened out, and zeros.

    It selects among the rows, one for each neuron, as `scale_by_dion2` does, however many columns there are; and
    divides those that are selected by their usual size as `scale_by_normuon` does, while the second moments of others
    stay. The whole is scaled to the Frobenius norm that it had.

    Args:
        fraction: share of the rows that is selected, in (0, 1], rounded up. None: 0.25.
        ef_decay: how much stays in the momentum of rows that are selected, in [0, 1]; default 0.95.
        b2: decay of the rows' second moments, in [0, 1); default 0.95. Their bias is not corrected.
        orthogonalize: moves the singular values of stacked matrices towards one. None: `polar_express`.
        eps: added to the roots of second moments, and the least norm that is divided by; above 0, default 1e-8.
        scale: `"spectral"` (default), `"rms"`, `"jordan"` or None, as in `scale_by_muon`.
        weight_dimension_numbers: which axes are inputs and outputs, as in `scale_by_muon`.
        mu_dtype: dtype of the momentum, that of the parameters by default.

    Returns:
        A transformation with a `ScaleByNordion2State`. All leaves must be matrices, but leaves without entries pass.

    Raises:
        TypeError: if an argument that cannot be traced is an array.
        ValueError: if a hyperparameter is out of its range, or a leaf is no matrix.

    Example:
        >>> import optkit
        >>> tx = optkit.scale_by_nordion2(fraction=0.5)
        >>> params = jnp.zeros((2, 2))
        >>> updates, state = tx.update(jnp.array([[1.0, 0.0], [0.0, 3.0]]), tx.init(params), params)
        >>> jnp.diag(updates).round(2), state.second_moment.round(2)
        (Array([0. , 0.9], dtype=float32), Array([0.  , 0.02], dtype=float32))

    Reference:
        Ahn, Amsel, Langford, "Dion2: A Simple Method to Shrink Matrix in Muon", 2025, arXiv:2512.16928; Li et al.,
        "NorMuon: Making Muon more efficient and scalable", 2025, arXiv:2510.05491.
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
    """NorDion2 (Dion3) on hidden matrices, AdamW or what `others` is on all other parameters.

    A step moves the rows, or neurons, whose momentum is largest, by equal sizes in the long run, and orthogonalizes
    only these; all others merely decay. Do not take it for embeddings, whose rows are seldom touched, nor for the last
    layer: name these in `labels`. One NaN gradient stays in the momentum for ever: see `optax.apply_if_finite`.

    Args:
        learning_rate: a positive number or a schedule; 0.01 to 0.02 for networks.
        fraction: share of the rows that is selected, in (0, 1]. None: 0.25.
        ef_decay: how much stays in the momentum of rows that are selected, in [0, 1]; default 0.95.
        b2: decay of the rows' second moments, in [0, 1); default 0.95.
        weight_decay: strength of the decoupled decay of NorDion2's matrices, at least 0; default 0.01.
        mask: tree of booleans, or a function that makes it from the parameters: the leaves that decay. All by default.
        labels: tree of the words "matrix" and "other", a prefix of the parameters, or a function that makes it from
            them. By default leaves of exactly two axes, or those that have `weight_dimension_numbers`, are matrices. A
            leaf of more axes that is labelled "matrix" and has no numbers counts its leading axes as separate matrices.
        others: the optimizer of all other parameters, taken as it is: with its own learning rate, decay and mask, in
            float32 at least; `optax.partition` makes one of several. None: AdamW at `learning_rate` with the authors'
            0.9, 0.95 and epsilon 1e-8, without decay; their configurations take AdamW or Lion at the same rate, but
            that over the root of the inputs for the last layer.
        orthogonalize: moves the singular values of stacked matrices towards one. None: `polar_express`.
        scale: `"spectral"` (default), `"rms"`, `"jordan"` or None, see `scale_by_nordion2`.
        weight_dimension_numbers: which axes of matrices are inputs and outputs, see `scale_by_nordion2`; a tree with
            None for leaves that are no matrices, a function that makes it from the parameters, or one for all leaves of
            two axes or more. `flax_dimension_numbers` has those of Flax's layers; convolutions need them.
        mu_dtype: dtype of the momenta; default the parameters', but at least float32.

    Returns:
        An optimizer; its state is one number an entry and one a row of a matrix, and that of `others`: AdamW's is two
        for each of its parameters.

    Raises:
        TypeError: if an argument that cannot be traced is an array, or `others` is no transformation.
        ValueError: if a hyperparameter is out of its range; from `init`, if a leaf labelled "matrix" cannot be one, if
            numbers or labels are given and no leaf is a matrix, or if neither is given and a leaf called `bias` or
            `scale` has two axes or more.

    Example:
        >>> import optkit
        >>> tx = optkit.nordion2(1.0, fraction=0.5, weight_decay=0.0)
        >>> params = {"kernel": jnp.array([[1.0, 0.0], [0.0, 3.0]]), "bias": jnp.array([2.0])}
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> jnp.diag(updates["kernel"]).round(2), updates["bias"].round(2)
        (Array([-0. , -0.9], dtype=float32), Array([-1.], dtype=float32))

    Reference:
        Ahn, Amsel, Langford, "Dion2: A Simple Method to Shrink Matrix in Muon", 2025, arXiv:2512.16928; Li et al.,
        "NorMuon: Making Muon more efficient and scalable", 2025, arXiv:2510.05491.
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
    """One step of stacked matrices, whose columns are counted by `axis`."""
    gradient, momentum = widen((gradient, momentum))
    buffer = momentum + gradient
    rows, columns = buffer.shape[-3 - axis], buffer.shape[axis]
    orthogonal, selected = orthogonalize_largest(buffer, -3 - axis, fraction, orthogonalize)
    even, second_moment = divide_by_row_sizes(orthogonal, second_moment, axis, selected, b2=b2, eps=eps)
    direction = with_norm(even, SCALES[scale](rows, columns) * frobenius_norm(orthogonal), eps)
    new_momentum = jnp.where(selected, ef_decay * buffer, buffer)  # the error feedback
    return _Result(direction, new_momentum, second_moment)


METHODS = (
    Method(
        name="nordion2",
        factory=nordion2,
        kind="optimizer",
        summary="Dion2 on rows, evened out as by NorMuon; AdamW on other parameters.",
        paper=DION2,
        also_known_as=("Dion3",),
        parts=(scale_by_nordion2,),
        example={"learning_rate": 1e-2, "weight_decay": 0.0},
        grid=1e-2,
    ),
)
